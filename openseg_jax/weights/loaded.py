"""What every reader returns: a CLIP with all that travels with its weights."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from openseg_jax.models.clip import CLIP
from openseg_jax.models.variants import CLIPConfig, Preprocess
from openseg_jax.text.tokenizer import Tokenizer
from openseg_jax.types import Params
from openseg_jax.weights.report import Report
from openseg_jax.weights.tree import flatten


# Compared and hashed by identity: segmenters are cached by the weights they were given.
@dataclasses.dataclass(frozen=True, eq=False)
class LoadedClip:
    """Weights and everything that has to go with them.

    Attributes:
        config: the architecture.
        params: nested float32 numpy arrays; move them with `jax.device_put` where you want them.
        preprocess: how images are prepared.
        tokenizer: how texts are.
        provenance: name, source, licence, and what the weights saw in training.
        defaults: settings that were chosen for these weights: a method's ("car"), "labels",
            "background".
        report: what happened to each name on the way in.
        extras: parameters that methods keep beside the CLIP, nested arrays by the method's name
            ("maft", "segclip"); see `weights.folder`.
        extras_config: the settings that belong to each of `extras`.
    """

    config: CLIPConfig
    params: Params
    preprocess: Preprocess
    tokenizer: Tokenizer
    provenance: dict[str, str]
    defaults: dict[str, Any]
    report: Report
    extras: Mapping[str, Params] = dataclasses.field(default_factory=dict)
    extras_config: Mapping[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of configuration and weights: equal models give equal strings."""
        digest = hashlib.blake2b(repr(self.config).encode(), digest_size=12)
        digest.update(repr(sorted(self.tokenizer.to_dict().items())).encode())
        leaves = flatten(self.params)
        for name in sorted(self.extras):
            digest.update(repr((name, sorted(self.extras_config.get(name, {}).items()))).encode())
            leaves |= {f"{name}:{key}": x for key, x in flatten(self.extras[name]).items()}
        for name, leaf in leaves.items():
            array = np.ascontiguousarray(leaf)
            digest.update(f"{name}{array.dtype}{array.shape}".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    def model(self, dtype: Any = jnp.float32, **switches: Any) -> CLIP:
        """Builds the module that `params` belong to. Switches as in `models.clip.CLIP`."""
        return CLIP(self.config, dtype=dtype, **switches)


def unknown_provenance(path: Path) -> dict[str, str]:
    """Says of files that nobody told us about where they lie, and that the rest is unknown."""
    return {
        "name": path.name,
        "source": str(path),
        "licence": "unknown; see where the files came from",
        "saw": "unknown",
    }

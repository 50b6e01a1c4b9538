"""SegCLIP as a model folder: its CLIP in the usual place, what it adds under the name "segclip".

The CLIP of the folder is whole: the tower's blocks before and after the grouping are one stack
again. As a plain CLIP it says little, since its last blocks learnt to read regions.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openseg_jax.errors import UserError, expected
from openseg_jax.models.segclip import SegCLIPConfig
from openseg_jax.models.variants import Preprocess
from openseg_jax.text.tokenizer import Tokenizer, openai_tokenizer
from openseg_jax.types import Params
from openseg_jax.weights.folder import save_folder
from openseg_jax.weights.loaded import LoadedClip
from openseg_jax.weights.segclip import clip_part, from_state_dict, segclip_spec
from openseg_jax.weights.tree import check_params, flatten, param_spec, unflatten

NAME = "segclip"
_BLOCKS, _AFTER = "visual/blocks/", "visual/blocks_after/"


def split_clip(config: SegCLIPConfig, params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a SegCLIP into the parameters of its CLIP and the rest; undone by `join_clip`.

    Args:
        config: the architecture.
        params: nested arrays on the host.

    Returns:
        Both nested.
    """
    flat = flatten(params)
    shared = set(param_spec(config.clip))
    clip = {name: leaf for name, leaf in flat.items() if name in shared}
    rest = {}
    for name, leaf in flat.items():
        if name.startswith(_AFTER):
            whole = _BLOCKS + name.removeprefix(_AFTER)
            clip[whole] = np.concatenate([np.asarray(clip[whole]), np.asarray(leaf)])
        elif name not in shared:
            rest[name] = leaf
    return unflatten(clip), unflatten(rest)


def join_clip(config: SegCLIPConfig, clip: Params, rest: Params) -> dict[str, Any]:
    """Builds a SegCLIP from its CLIP and what it adds.

    Raises:
        UserError: when they do not fit `config` or one another.
    """
    params = unflatten({**clip_part(config, clip), **flatten(rest)})
    check_params(params, segclip_spec(config), NAME)
    return params


def save_segclip(
    path: str | os.PathLike[str],
    config: SegCLIPConfig,
    params: Params,
    preprocess: Preprocess,
    tokenizer: Tokenizer,
    provenance: Mapping[str, str],
    defaults: Mapping[str, Any] | None = None,
    dtype: str = "float32",
) -> None:
    """Writes a model folder; arguments as in `weights.folder.save_folder`."""
    clip, rest = split_clip(config, params)
    save_folder(
        path, config.clip, clip, preprocess, tokenizer, provenance, defaults, dtype,
        extras={NAME: rest}, extras_config={NAME: _settings(config)},
    )  # fmt: skip


def load_segclip(path: Path, state: Mapping[str, Any]) -> LoadedClip:
    """Loads the published state dict, for which `weights.segclip.MARK` is among the keys.

    Args:
        path: of the file, for messages and provenance.
        state: arrays by the published names.

    Raises:
        UserError: naming file, key, what was expected and what was found.
    """
    config, params, report = from_state_dict(state, name=f"{path.stem}-clip", file=str(path))
    clip, rest = split_clip(config, params)
    return LoadedClip(
        config=config.clip,
        params=clip,
        preprocess=Preprocess(config.clip.vision.image_size),
        tokenizer=openai_tokenizer(config.clip.text.context),
        provenance={
            "name": path.stem,
            "source": str(path),
            "licence": "unknown; see where the file came from (CLIP inside: MIT)",
            "saw": "CLIP's 400 M image-text pairs, then captions (CC3M and COCO as published)",
        },
        defaults={},
        report=report,
        extras={NAME: rest},
        extras_config={NAME: _settings(config)},
    )


def _settings(config: SegCLIPConfig) -> dict[str, Any]:
    return {key: value for key, value in config.to_dict().items() if key != "clip"}


def segclip_of(loaded: LoadedClip) -> tuple[SegCLIPConfig, dict[str, Any]]:
    """Returns configuration and parameters of the SegCLIP in a loaded folder.

    Raises:
        UserError: for weights without one, or settings that do not fit.
    """
    if NAME not in loaded.extras:
        raise expected(
            "model", "weights with a SegCLIP",
            f"{loaded.provenance.get('name', 'a CLIP')!r} without one",
            "train one (openseg train --config segclip_pretrain) or convert segclip.bin",
        )  # fmt: skip
    settings = dict(loaded.extras_config.get(NAME, {}))
    known = {field.name for field in dataclasses.fields(SegCLIPConfig)} - {"clip"}
    strange = sorted(set(settings) - known)
    if strange:
        raise UserError(
            f"segclip: unknown settings {', '.join(strange)} in the folder's config.json; "
            "convert the weights again with this version"
        )
    config = SegCLIPConfig(clip=loaded.config, **settings)
    return config, join_clip(config, loaded.params, loaded.extras[NAME])

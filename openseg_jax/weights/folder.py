"""Our own model folder: config.json, model.safetensors and the tokenizer's vocabulary.

The folder is complete: it says what the architecture is, how images and texts are prepared, where
the weights come from and what they saw. Nothing about them is looked up or guessed on loading.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openseg_jax.errors import UserError, expected
from openseg_jax.files import atomic_folder
from openseg_jax.models.variants import CLIPConfig, Preprocess
from openseg_jax.text.tokenizer import Tokenizer, load_tokenizer
from openseg_jax.types import Params
from openseg_jax.weights.loaded import LoadedClip
from openseg_jax.weights.safetensors import read_safetensors, write_safetensors
from openseg_jax.weights.tree import Leaf, convert, flatten, param_spec

FORMAT, VERSION = "openseg_jax", 1
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
PROVENANCE = ("name", "source", "licence", "saw")


def save_folder(
    path: str | os.PathLike[str],
    config: CLIPConfig,
    params: Params,
    preprocess: Preprocess,
    tokenizer: Tokenizer,
    provenance: Mapping[str, str],
    defaults: Mapping[str, Any] | None = None,
    dtype: str = "float32",
) -> None:
    """Writes a model folder; nobody ever sees half of one.

    Args:
        path: the folder; one that is there is replaced as a whole.
        config: the architecture.
        params: nested arrays that fit it.
        preprocess: how images are prepared.
        tokenizer: how texts are.
        provenance: "name", "source", "licence" and "saw" (what the weights saw in training).
        defaults: settings chosen for these weights, ready for JSON.
        dtype: of storage: "float32", "float16" or "bfloat16".

    Raises:
        UserError: when the parameters do not fit the configuration, provenance is incomplete, a
            number does not fit `dtype`, or the folder cannot be written.
    """
    lacking = [key for key in PROVENANCE if not provenance.get(key)]
    if lacking:
        raise expected(
            "provenance",
            f"the keys {', '.join(PROVENANCE)}",
            f"none for {', '.join(lacking)}",
            "say where the weights come from",
        )
    flat, spec = flatten(params), param_spec(config)
    for name in sorted(set(flat) | set(spec)):
        want = spec[name].shape if name in spec else None
        got = tuple(flat[name].shape) if name in flat else None
        if want != got:
            raise expected(f"params: {name}", f"shape {want}", f"{got}", "give config's own params")
    about = {
        "format": FORMAT,
        "version": VERSION,
        "model": config.to_dict(),
        "preprocess": preprocess.to_dict(),
        "tokenizer": tokenizer.to_dict(),
        "provenance": dict(provenance),
        "defaults": dict(defaults or {}),
    }
    text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    with atomic_folder(path) as aside:
        (aside / CONFIG_FILE).write_text(text, encoding="utf-8")
        write_safetensors(aside / WEIGHTS_FILE, flat, dtype=dtype, metadata={"format": FORMAT})
        tokenizer.save(aside)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; anything else raises UserError naming the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, got {error}; download the file again") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(data).__name__}; correct it")
    return data


def load_folder(path: str | os.PathLike[str]) -> LoadedClip:
    """Loads a folder that `save_folder` wrote.

    Raises:
        UserError: for a folder of another format or version, or files that are missing, broken
            or do not fit one another.
    """
    path = Path(path)
    about = read_json(path / CONFIG_FILE)
    if about.get("format") != FORMAT or about.get("version") != VERSION:
        raise expected(
            str(path / CONFIG_FILE),
            f"format {FORMAT!r} version {VERSION}",
            f"{about.get('format')!r} version {about.get('version')!r}",
            "convert the weights again with this version",
        )
    for key in ("model", "preprocess", "tokenizer"):
        if not isinstance(about.get(key), dict):
            raise expected(str(path / CONFIG_FILE), f"a section {key!r}", "none", "restore it")
    config = CLIPConfig.from_dict(about["model"])
    leaves = [Leaf(name, name) for name in param_spec(config)]
    source = read_safetensors(path / WEIGHTS_FILE)
    params, report = convert(source, leaves, config, file=str(path / WEIGHTS_FILE))
    return LoadedClip(
        config=config,
        params=params,
        preprocess=Preprocess.from_dict(about["preprocess"]),
        tokenizer=load_tokenizer(path, about["tokenizer"]),
        provenance=dict(about.get("provenance", {})),
        defaults=dict(about.get("defaults", {})),
        report=report,
    )

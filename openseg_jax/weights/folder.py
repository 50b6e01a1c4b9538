"""Our own model folder: config.json, model.safetensors and the tokenizer's vocabulary.

The folder is complete: it says what the architecture is, how images and texts are prepared, where
the weights come from and what they saw. Nothing about them is looked up or guessed on loading.

A method that adds parameters to CLIP keeps them beside it, under a name of its own: the arrays in
`<name>.safetensors`, and how to read them in config.json under `extras`. They are of any shape;
the method checks them, with `weights.tree.check_params`, when it is built.

| name | arrays (each optional) | settings |
|---|---|---|
| `maft` | `visual/…` (the tuned tower), `non_object`, `generator/…` | see `weights.maft` |
| `segclip` | see the method | see the method |
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openseg_jax.errors import UserError, expected
from openseg_jax.files import atomic_folder
from openseg_jax.models.variants import CLIPConfig, Preprocess
from openseg_jax.text.tokenizer import Tokenizer, load_tokenizer
from openseg_jax.types import Params
from openseg_jax.weights.loaded import LoadedClip
from openseg_jax.weights.safetensors import read_safetensors, write_safetensors
from openseg_jax.weights.tree import Leaf, check_params, convert, flatten, param_spec, unflatten

FORMAT, VERSION = "openseg_jax", 1
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
PROVENANCE = ("name", "source", "licence", "saw")
_EXTRA = re.compile(r"[a-z][a-z0-9_]*")


def save_folder(
    path: str | os.PathLike[str],
    config: CLIPConfig,
    params: Params,
    preprocess: Preprocess,
    tokenizer: Tokenizer,
    provenance: Mapping[str, str],
    defaults: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    extras: Mapping[str, Params] | None = None,
    extras_config: Mapping[str, Mapping[str, Any]] | None = None,
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
        extras: parameters of methods beside the CLIP, nested arrays by the method's name.
        extras_config: settings for each of `extras`, ready for JSON.

    Raises:
        UserError: when the parameters do not fit the configuration, provenance is incomplete, a
            number does not fit `dtype`, or the folder cannot be written.
    """
    extras, settings = dict(extras or {}), dict(extras_config or {})
    for name in sorted(set(extras) | set(settings)):
        if (
            name not in extras
            or not _EXTRA.fullmatch(name)
            or f"{name}.safetensors" == WEIGHTS_FILE
        ):
            raise expected(
                "extras", "names of small letters, digits and _, with arrays for each", repr(name),
                "give both arrays and settings, under the method's name",
            )  # fmt: skip
    lacking = [key for key in PROVENANCE if not provenance.get(key)]
    if lacking:
        raise expected(
            "provenance",
            f"the keys {', '.join(PROVENANCE)}",
            f"none for {', '.join(lacking)}",
            "say where the weights come from",
        )
    flat = check_params(params, param_spec(config), "params")
    about = {
        "format": FORMAT,
        "version": VERSION,
        "model": config.to_dict(),
        "preprocess": preprocess.to_dict(),
        "tokenizer": tokenizer.to_dict(),
        "provenance": dict(provenance),
        "defaults": dict(defaults or {}),
    }
    if extras:
        about["extras"] = {name: dict(settings.get(name, {})) for name in sorted(extras)}
    text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    with atomic_folder(path) as aside:
        (aside / CONFIG_FILE).write_text(text, encoding="utf-8")
        write_safetensors(aside / WEIGHTS_FILE, flat, dtype=dtype, metadata={"format": FORMAT})
        for name, tree in extras.items():
            file = aside / f"{name}.safetensors"
            write_safetensors(file, flatten(tree), dtype=dtype, metadata={"format": FORMAT})
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


def _read_extra(path: Path) -> dict[str, Any]:
    """Reads a method's arrays; halves become float32, and float32 stays mapped on disk."""
    arrays = {name: np.asarray(lazy) for name, lazy in read_safetensors(path).items()}
    return unflatten({
        name: x if x.dtype.kind in "iub" else x.astype(np.float32, copy=False)
        for name, x in arrays.items()
    })  # fmt: skip


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
    settings = about.get("extras", {})
    if not isinstance(settings, dict) or not all(
        _EXTRA.fullmatch(name) and isinstance(entry, dict) for name, entry in settings.items()
    ):
        raise expected(
            str(path / CONFIG_FILE), "extras: an object of objects", f"{settings!r:.60}",
            "restore it",
        )  # fmt: skip
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
        extras={name: _read_extra(path / f"{name}.safetensors") for name in settings},
        extras_config={name: dict(entry) for name, entry in settings.items()},
    )

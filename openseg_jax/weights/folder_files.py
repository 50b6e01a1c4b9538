"""The files of a model folder of ours: which they are, and whether they fit one another.

Nothing but headers is read, so that a folder of gigabytes is checked in a moment.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from openseg_jax.errors import UserError, expected
from openseg_jax.models.variants import CLIPConfig, Preprocess
from openseg_jax.text.tokenizer import HF_FILE, SENTENCEPIECE_FILE, load_tokenizer
from openseg_jax.weights.folder import CONFIG_FILE, FORMAT, VERSION, WEIGHTS_FILE, read_json
from openseg_jax.weights.report import Report
from openseg_jax.weights.safetensors import read_safetensors
from openseg_jax.weights.tree import param_spec

_VOCABULARY = {"hf": HF_FILE, "sentencepiece": SENTENCEPIECE_FILE}


def is_ours(about: dict[str, Any]) -> bool:
    """Says whether a config.json is that of a folder of ours, of any version."""
    return about.get("format") == FORMAT


def file_names(about: dict[str, Any], where: str) -> list[str]:
    """Lists the files that belong to a folder, from its config.json alone.

    Args:
        about: the config.
        where: its file, for messages.

    Raises:
        UserError: for a config of another format or version, or without what names the files.
    """
    if not is_ours(about) or about.get("version") != VERSION:
        raise expected(
            where, f"format {FORMAT!r} version {VERSION}",
            f"{about.get('format')!r} version {about.get('version')!r}",
            "give a folder that `openseg convert` or `openseg train` wrote with this version",
        )  # fmt: skip
    tokenizer, extras = about.get("tokenizer"), about.get("extras", {})
    kind = tokenizer.get("kind") if isinstance(tokenizer, dict) else None
    if kind not in _VOCABULARY or not isinstance(extras, dict):
        raise expected(where, "a tokenizer of a known kind", repr(kind), "restore the file")
    names = [CONFIG_FILE, WEIGHTS_FILE, _VOCABULARY[kind]]
    names += [f"{name}.safetensors" for name in sorted(extras)]
    for name in names:
        if Path(name).name != name or name.startswith("."):
            raise expected(where, "names of plain files", repr(name), "restore the file")
    return names


def check_folder(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[str]]:
    """Checks that a folder of ours is whole: every file there, and every array of its shape.

    Returns:
        Its config.json, and the names of its files, that one among them.

    Raises:
        UserError: naming the file, for what is missing, cut short or does not fit.
    """
    path = Path(path)
    config_file = path / CONFIG_FILE
    if not config_file.is_file():
        raise UserError(
            f"{path}: expected a model folder, found no {CONFIG_FILE}; give a folder that "
            "`openseg convert` or `openseg train` wrote"
        )
    about = read_json(config_file)
    names = file_names(about, str(config_file))
    for name in names:
        if not (path / name).is_file():
            raise UserError(f"{path / name}: missing; the folder's {CONFIG_FILE} names it")
    for key in ("model", "preprocess"):
        if not isinstance(about.get(key), dict):
            raise expected(str(config_file), f"a section {key!r}", "none", "restore it")
    for key in ("provenance", "defaults"):
        if not isinstance(about.get(key, {}), dict):
            got = type(about[key]).__name__
            raise expected(f"{config_file}: {key}", "an object", got, "restore it")
    Preprocess.from_dict(about["preprocess"])
    load_tokenizer(path, about["tokenizer"])
    spec = param_spec(CLIPConfig.from_dict(about["model"]))
    report = Report(str(path / WEIGHTS_FILE))
    found = read_safetensors(path / WEIGHTS_FILE)
    for name, array in spec.items():
        report.check(name, found.get(name), tuple(array.shape))
    for name in sorted(set(found) - set(spec)):
        report.extra(name, found[name], allowed=False)
    report.raise_if_wrong()
    for name in names:
        if name.endswith(".safetensors") and name != WEIGHTS_FILE:
            read_safetensors(path / name)
    return about, names

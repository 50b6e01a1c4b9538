"""The folder of an exported model: written as a whole, and opened again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from openseg_jax import api
from openseg_jax.errors import UserError
from openseg_jax.export import standalone
from openseg_jax.export.calls import Call, Tower, canvas_size, describe
from openseg_jax.export.programs import (
    PLATFORMS,
    Program,
    check_platforms,
    lengths_of,
    segment_program,
    text_program,
)
from openseg_jax.export.reading import FORMAT, VERSION, Exported
from openseg_jax.export.words import BUILD, ExportError
from openseg_jax.files import atomic_folder
from openseg_jax.methods.base import Segmenter
from openseg_jax.methods.vocabulary import checked_names
from openseg_jax.text.classifier import encode_texts
from openseg_jax.weights.safetensors import write_safetensors

__all__ = ["check_target", "load", "write"]

_OUTPUTS = {
    "labels": {"dtype": "int32", "shape": "b, H, W", "what": "0 background, i + 1 class i"},
    "scores": {"dtype": "float32", "shape": "b, rows", "what": "in [0, 1], 0 where not found"},
    "alive": {"dtype": "bool", "shape": "b, rows", "what": "classes that were found"},
}


def write(
    segmenter: Segmenter,
    folder: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    labels: Sequence[str] = (),
    background: Sequence[str] | None = None,
    platforms: Sequence[str] = PLATFORMS,
) -> dict[str, Any]:
    """Exports a segmenter.

    Pictures at once, classes and texts stay open; the canvas is fixed. Other words can be asked
    for after the export: the text towers are in it.

    Args:
        segmenter: car, clip_dense, maft or segclip, e.g. from `load_segmenter`. MAFT with region
            proposals, which are host code, takes masks as an input instead.
        folder: the folder to write; an older export there is replaced.
        size: (H, W) of the canvas, pixels, rounded up to whole patches; None as `canvas_size` says.
        labels: classes that are encoded now, for calls that name none.
        background: texts that compete with `labels`; None takes the method's own.
        platforms: some of "cpu", "cuda" and "tpu"; none of them has to be here.

    Returns:
        The manifest.

    Raises:
        UserError: for settings that cannot be exported, or a folder that cannot be written.
    """
    folder, platforms = Path(folder), check_platforms(platforms)
    check_target(folder)
    names = checked_names(labels) if labels else ()
    call = describe(segmenter)
    canvas = canvas_size(call, size)
    programs = {"segment": segment_program(call, canvas, platforms)}
    towers, homes = _text_programs(call, programs, platforms)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "method": call.recipe["kind"],
        "size": list(canvas),
        "fit": call.fit,
        "patch": next(iter(call.towers.values())).clip.config.vision.patch_size,
        "platforms": list(platforms),
        "made_with": {
            "jax": jax.__version__,
            "calling_convention": programs["segment"].calling_convention,
        },
        "provenance": api.provenance(segmenter),
        "inputs": _described(programs["segment"]),
        "outputs": _OUTPUTS,
        "towers": towers,
        "vocabulary": call.recipe,
    }
    with atomic_folder(folder) as aside:
        for name, tower in homes.items():
            (aside / name).mkdir()
            tower.clip.tokenizer.save(aside / name)
        manifest["programs"] = _write_programs(aside, programs)
        _write_classes(aside, call, names, background)
        (aside / "run.py").write_text(standalone.source(), encoding="utf-8")
        manifest["files"] = {
            str(path.relative_to(aside)): _about(path)
            for path in sorted(aside.rglob("*"))
            if path.is_file() and path.name != "run.py"
        }
        _write_json(aside / "manifest.json", manifest)
    return manifest


def load(folder: str | os.PathLike[str]) -> Exported:
    """Opens an exported folder; the same object as its run.py gives, without this library.

    Raises:
        UserError: for a folder that is missing, damaged or of another version.
    """
    try:
        return Exported(Path(folder))
    except ExportError as error:
        raise UserError(str(error)) from error


def check_target(folder: Path) -> None:
    """Raises UserError for a target that is something else than an older export."""
    inside = next((parent for parent in folder.parents if parent.is_file()), None)
    if inside is not None:
        raise UserError(f"{folder}: {inside} is a file, not a folder; name another place")
    if not folder.exists():
        return
    manifest = folder / "manifest.json"
    ours = manifest.is_file() and FORMAT in manifest.read_text(encoding="utf-8", errors="replace")
    if not folder.is_dir() or (any(folder.iterdir()) and not ours):
        raise UserError(f"{folder}: exists and is no exported model; name another folder")


def _text_programs(
    call: Call, programs: dict[str, Program], platforms: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Tower]]:
    """Adds the programs of the text towers; towers that are the same share one."""
    towers: dict[str, Any] = {}
    homes: dict[str, Tower] = {}
    for name, tower in call.towers.items():
        twin = next((home for home, other in homes.items() if other.clip is tower.clip), None)
        home = twin or ("tokenizer" if not homes else f"tokenizer_{name}")
        program = "text" if home == "tokenizer" else f"text_{name}"
        if twin is None:
            homes[home] = tower
            programs[program] = text_program(tower, platforms)
        tokenizer = tower.clip.tokenizer
        file = "tokenizer.json" if tokenizer.kind == "hf" else "tokenizer.model"
        towers[name] = {
            "program": program,
            "width": tower.clip.config.embed_dim,
            "lengths": lengths_of(tower),
            "tokenizer": {**tokenizer.to_dict(), "file": f"{home}/{file}"},
        }
    return towers, homes


def _write_programs(aside: Path, programs: dict[str, Program]) -> dict[str, Any]:
    about: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for name, program in programs.items():
        arrays |= {f"{name}/{path}": leaf for path, leaf in program.params.items()}
        about[name] = []
        for platforms, data in program.files:
            file = f"{name}.{'-'.join(platforms)}.stablehlo"
            (aside / file).write_bytes(data)
            about[name].append(
                {"file": file, "platforms": list(platforms), "params": list(program.params)}
            )
    write_safetensors(aside / "params.safetensors", arrays, metadata={"format": FORMAT})
    return about


def _write_classes(
    aside: Path, call: Call, names: Sequence[str], background: Sequence[str] | None
) -> None:
    _write_json(
        aside / "classes.json",
        {
            "names": list(names),
            "background": call.recipe["background"] if background is None else list(background),
        },
    )
    if names:

        def encode(tower: str, sentences: Sequence[str]) -> np.ndarray:
            chosen = call.towers[tower]
            clip: Any = chosen.clip
            return encode_texts(clip, sentences, unit=chosen.unit)

        try:
            arrays = BUILD[call.recipe["kind"]](call.recipe, encode, names, background)
        except ExportError as error:
            raise UserError(str(error)) from error
        write_safetensors(aside / "classes.safetensors", arrays)


def _described(program: Program) -> dict[str, Any]:
    return {
        name: {"dtype": dtype, "shape": shape} for name, (dtype, shape) in program.inputs.items()
    }


def _about(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, hashlib.blake2b).hexdigest()[:32]
    return {"bytes": path.stat().st_size, "blake2b": digest}


def _write_json(path: Path, data: Any) -> None:
    text = json.dumps(data, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")

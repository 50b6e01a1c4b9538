"""Segments pictures with an exported model: no model code, only what lies in this folder.

    python run.py photo.jpg --labels "zebra, grass" -o out

Or in Python: `import run; run.Exported(".").picture("photo.jpg", ["zebra", "grass"]).labels`.

Needs jax, flatbuffers, numpy, pillow, safetensors, and the tokenizer's library (tokenizers or
sentencepiece). manifest.json says what the programs take and give. Licence of this file:
Apache-2.0; that of the weights is in manifest.json.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from openseg_jax.export.reading import Exported, Result
from openseg_jax.export.words import ExportError, parse_labels

__all__ = ["main"]


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Segment pictures with an exported model.")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument(
        "-l", "--labels", metavar="LIST", help='e.g. "zebra, grass"; left out: those of the export'
    )
    parser.add_argument(
        "--background", metavar="LIST", help="texts that may take pixels unreported; '' for none"
    )
    parser.add_argument(
        "--masks", metavar="FILE", help="an .npy of [M H W] masks, where the export names masks"
    )
    parser.add_argument("-o", "--out", default="out", metavar="DIR", help="(%(default)s)")
    parser.add_argument(
        "--model", default=str(Path(__file__).parent), metavar="DIR", help="(this folder)"
    )
    return parser


def _stems(images: Sequence[str], out: Path) -> list[Path]:
    """Chooses where each picture's results go: no two at one place, and none on a picture."""
    given, stems = {Path(image).resolve() for image in images}, []
    for image in images:
        stem, number = out / Path(image).stem, 1
        while stem in stems:
            number += 1
            stem = out / f"{Path(image).stem}_{number}"
        for end in (".png", ".json"):
            target = stem.with_name(stem.name + end)
            if target.resolve() in given:
                raise ExportError(
                    f"{target}: a result would replace it; choose another folder by -o"
                )
        stems.append(stem)
    return stems


def _masks(path: str) -> np.ndarray:
    try:
        masks = np.load(path)
    except Exception as error:  # NumPy raises whatever it meets in what it cannot read
        raise ExportError(f"{path}: cannot be read as an .npy file ({error})") from error
    if not isinstance(masks, np.ndarray) or masks.dtype.kind not in "buif":
        raise ExportError(f"{path}: expected an .npy file of one array of numbers; save it so")
    return masks


def _write(path: Path, data: bytes) -> None:
    """Writes a file aside and renames it, so that nobody ever sees half of it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(data)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _save(result: Result, stem: Path) -> None:
    """Writes STEM.png (pixel i is label i) and STEM.json."""
    many = len(result.names) > 255
    pixels = result.labels.astype(np.uint16 if many else np.uint8)
    picture = Image.fromarray(pixels)
    if not many:
        # Colours that are far apart for neighbouring numbers; background is black.
        colours = (np.arange(256)[:, None] * [97, 57, 151] % 256).astype(np.uint8)
        picture.putpalette(colours.tobytes())
    stem.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    picture.save(file, "PNG")
    _write(stem.with_name(stem.name + ".png"), file.getvalue())
    counts = np.bincount(result.labels.ravel(), minlength=len(result.names) + 1)
    share = (counts / result.labels.size).tolist()
    rows = [
        {
            "label": name,
            "id": i + 1,
            "score": result.scores[name],
            "found": name in result.kept,
            "area_share": round(share[i + 1], 6),
        }
        for i, name in enumerate(result.names)
    ]
    text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    _write(stem.with_name(stem.name + ".json"), text.encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Segments the pictures; returns 0, or 2 for a mistake in what was given."""
    args = _arguments().parse_args(argv)
    try:
        stems = _stems(args.images, Path(args.out))
        model = Exported(args.model)
        names = None if args.labels is None else parse_labels(args.labels)
        background = None if args.background is None else parse_labels(args.background)
        if names and background:
            taken = {name.casefold() for name in names}
            background = [text for text in background if text.casefold() not in taken]
        masks = None if args.masks is None else _masks(args.masks)
        words = model.classes(names, background)
        for image, stem in zip(args.images, stems, strict=True):
            result = model.picture(image, words, masks=masks)
            _save(result, stem)
            found = ", ".join(f"{name} {result.scores[name]:.2f}" for name in result.kept)
            sys.stdout.write(f"{image}: {found or 'nothing found'} -> {stem}.png, {stem}.json\n")
    except (ExportError, OSError, ImportError) as error:
        sys.stderr.write(f"run.py: {' '.join(str(error).split())}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Segments pictures with an exported model: no model code, only what lies in this folder.

    python run.py photo.jpg --labels "zebra, grass" -o out

Or in Python: `import run; run.Exported(".").picture("photo.jpg", ["zebra", "grass"]).labels`.

Needs jax, flatbuffers, numpy, pillow, safetensors, and the tokenizer's library (tokenizers or
sentencepiece). manifest.json says what the programs take and give. Licence of this file:
Apache-2.0; that of the weights is in manifest.json.
"""

from __future__ import annotations

import argparse
import json
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
    picture.save(stem.with_name(stem.name + ".png"))
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
    stem.with_name(stem.name + ".json").write_text(text, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Segments the pictures; returns 0, or 2 for a mistake in what was given."""
    args = _arguments().parse_args(argv)
    try:
        model = Exported(args.model)
        names = None if args.labels is None else parse_labels(args.labels)
        background = None if args.background is None else parse_labels(args.background)
        masks = None if args.masks is None else np.load(args.masks)
        words = model.classes(names, background)
        for image in args.images:
            result = model.picture(image, words, masks=masks)
            stem = Path(args.out) / Path(image).stem
            _save(result, stem)
            found = ", ".join(f"{name} {result.scores[name]:.2f}" for name in result.kept)
            sys.stdout.write(f"{image}: {found or 'nothing found'} -> {stem}.png, {stem}.json\n")
    except (ExportError, OSError, ImportError) as error:
        sys.stderr.write(f"run.py: {' '.join(str(error).split())}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

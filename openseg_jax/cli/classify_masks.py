"""Classify masks that you have: a score for every mask and label.

Masks: a PNG label map (each value but 0 is a mask), an NPZ or NPY array [M H W], COCO run-length
codes as JSON, or a folder with one PNG for each mask. All have the picture's size. Files:
OUT/NAME_masks.json, OUT/NAME_masks.csv and OUT/NAME_masks_overlay.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from openseg_jax import classify
from openseg_jax.cli.shared import (
    add_label_arguments,
    background_of,
    labels_of,
    output_console,
)
from openseg_jax.errors import UserError

_TABLE_ROWS, _BEST = 40, 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `openseg classify-masks`."""
    parser.add_argument("image", metavar="IMAGE", help="any picture Pillow reads")
    parser.add_argument("--masks", required=True, metavar="FILE_OR_FOLDER", help="see above")
    what = parser.add_argument_group("what they may show")
    add_label_arguments(
        what, background="texts that compete unreported; 'none', or the weights' 'default'"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--model", default="miniature", help="name or folder; see openseg models (%(default)s)"
    )
    how.add_argument("--temperature", type=float, help="sharpness of the scores (100 as published)")
    how.add_argument("--parity", choices=("reference",), help="the published preprocessing")
    out = parser.add_argument_group("output")
    out.add_argument("-o", "--out", default="openseg_out", metavar="DIR", help="(%(default)s)")
    out.add_argument("--json", action="store_true", help="print the JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Runs `openseg classify-masks`."""
    names, background = labels_of(args), background_of(args)
    image, stem = Path(args.image), Path(args.image).stem or "picture"
    given = {image.resolve(), Path(args.masks).resolve()}
    for end in classify.OUTPUTS:
        target = Path(args.out) / (stem + end)
        if target.resolve() in given:
            raise UserError(
                f"{target}: would be replaced by a result; choose another folder with --out"
            )
    settings = {
        name: value
        for name in ("temperature", "parity")
        if (value := getattr(args, name)) is not None
    }
    found = classify.classify_masks(
        image, args.masks, names, model=args.model, background=background, **settings
    )
    for note in found.notes:
        print(f"openseg: note: {note}", file=sys.stderr)
    written = found.save(args.out, stem)
    if args.json:
        json.dump(
            {"image": str(image), **found.to_json()}, sys.stdout, ensure_ascii=False, indent=1
        )
        print()
    else:
        _print(image, found)
        print("wrote " + ", ".join(map(str, written)))
    return 0


def _print(path: Path, found: classify.MaskScores) -> None:
    table = Table(title=escape(str(path)), title_justify="left")
    for name, side in (("mask", "left"), ("area", "right"), ("labels by score", "left")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    rows = found.table()
    for row in rows[:_TABLE_ROWS]:
        best = sorted(row["scores"].items(), key=lambda pair: -pair[1])[:_BEST]
        shown = ", ".join(f"{_short(name)} {score:.2f}" for name, score in best)
        table.add_row(
            escape(row["mask"]), f"{100 * row['area_share']:.1f} %",
            escape(shown) if row["label"] else "nothing inside",
        )  # fmt: skip
    if len(rows) > _TABLE_ROWS:
        table.add_row(f"… and {len(rows) - _TABLE_ROWS} more", "", "see the CSV")
    output_console().print(table)


def _short(name: str) -> str:
    return name if len(name) <= 40 else name[:39] + "…"

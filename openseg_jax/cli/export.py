"""Export a method as StableHLO: a folder that segments by any words, without this library.

DST gets the programs for each platform, the weights, the tokenizer, a class table, and run.py:
python DST/run.py photo.jpg --labels "zebra, grass". The platforms need not be here.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from openseg_jax import api, export
from openseg_jax.cli.shared import add_label_arguments, background_of, labels_of, output_console
from openseg_jax.errors import expected
from openseg_jax.export.folder import check_target
from openseg_jax.export.programs import check_platforms
from openseg_jax.inputs.labels import merge_duplicates

_SIZE = re.compile(r"(\d{1,6})(?:x(\d{1,6}))?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `openseg export`."""
    parser.add_argument("dst", help="the folder to write; an older export there is replaced")
    what = parser.add_argument_group("what")
    what.add_argument(
        "--method", default="car", help="car, clip_dense, maft or segclip (%(default)s)"
    )
    what.add_argument(
        "--model", default="miniature", help="name or folder; see openseg models (%(default)s)"
    )
    what.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the method, or car's classifier=MODEL; may be repeated",
    )
    what.add_argument(
        "--size", metavar="HxW", help="canvas that pictures are reduced to fit (the method's own)"
    )
    what.add_argument(
        "--platforms", default=",".join(export.PLATFORMS), metavar="LIST", help="(%(default)s)"
    )
    table = parser.add_argument_group("class table, for calls that name no labels")
    add_label_arguments(
        table, background="texts that compete with them; 'none', or the method's 'default'"
    )


def run(args: argparse.Namespace) -> int:
    """Runs `openseg export`: everything is checked before weights are loaded."""
    size, settings = read_size(args.size), read_settings(args.set)
    platforms = check_platforms([p.strip() for p in args.platforms.split(",") if p.strip()])
    check_target(Path(args.dst))
    asked = args.labels is not None or args.labels_file
    names = merge_duplicates(labels_of(args))[0] if asked else []
    segmenter = api.load(args.method, args.model, api.frozen_settings(settings))
    manifest = export.write(
        segmenter, args.dst, size=size, labels=names, background=background_of(args),
        platforms=platforms,
    )  # fmt: skip
    print_table(Path(args.dst), manifest, asked=size)
    return 0


def read_size(text: str | None) -> tuple[int, int] | None:
    """Reads "512x640" (height first) or "512"; None stays None."""
    if text is None:
        return None
    found = _SIZE.fullmatch(text.strip().lower())
    if not found:
        raise expected("--size", "HEIGHTxWIDTH in pixels", repr(text), "try 512x512")
    height = int(found[1])
    return height, int(found[2] or height)


def read_settings(given: Sequence[str]) -> dict[str, Any]:
    """Reads KEY=VALUE texts; a value that is no Python literal is a text."""
    settings = {}
    for setting in given:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise expected("--set", "KEY=VALUE", repr(setting), "add the value")
        try:
            settings[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            settings[name] = text
    return settings


def print_table(folder: Path, manifest: dict[str, Any], *, asked: tuple[int, int] | None) -> None:
    """Prints what was written, and how to use it."""
    console, (height, width) = output_console(), manifest["size"]
    table = Table(title=escape(f"{folder}: {manifest['method']}"))
    table.add_column("file")
    table.add_column("MB", justify="right")
    for name, about in manifest["files"].items():
        table.add_row(escape(name), f"{about['bytes'] / 1e6:.2f}")
    console.print(table)
    rounded = "" if asked in (None, (height, width)) else " (rounded up to whole patches)"
    console.print(f"canvas {height}x{width}{rounded}, platforms {', '.join(manifest['platforms'])}")
    if "masks" in manifest["inputs"]:
        console.print("region proposals stay behind: this export names masks that you give")
    masks = " --masks masks.npy" if "masks" in manifest["inputs"] else ""
    console.print(
        escape(f'try: python {folder / "run.py"} photo.jpg --labels "zebra, grass"{masks}')
    )

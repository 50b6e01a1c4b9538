"""`openseg convert SRC DST`: any supported weights into a folder of ours."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from rich.console import Console
from rich.table import Table

from openseg_jax.errors import UserError
from openseg_jax.weights.folder import CONFIG_FILE, FORMAT, read_json, save_folder
from openseg_jax.weights.load import load_clip, resize_clip
from openseg_jax.weights.report import Report
from openseg_jax.weights.safetensors import STORAGE

DESCRIPTION = (
    "Convert weights (OpenAI .pt, open_clip, transformers, big_vision npz, MAFT and FreeSeg "
    "checkpoints) to a folder."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.description = DESCRIPTION
    parser.add_argument("src", help="a file, a folder, or a name from `openseg models`")
    parser.add_argument("dst", help="the folder to write; an older one of ours is replaced")
    parser.add_argument(
        "--dtype", default="float32", choices=sorted(STORAGE), help="of storage (default float32)"
    )
    parser.add_argument(
        "--model",
        help="the architecture (a name from `openseg models`), for a bare state dict; "
        "otherwise the name that the folder carries",
    )
    parser.add_argument(
        "--image-size", type=int, help="resample positions to this native image size, in pixels"
    )


def report_table(report: Report) -> Table:
    """Lays a load's report out for the terminal."""
    table = Table(title=report.file)
    table.add_column("what")
    table.add_column("count", justify="right")
    table.add_column("first of them")
    for what, count, which in report.rows():
        table.add_row(what, str(count), which)
    return table


def check_target(src: str, dst: str) -> None:
    """Raises UserError for a target whose replacement would destroy something of others."""
    path = Path(dst)
    if not path.exists():
        return
    if Path(src).exists() and path.resolve() == Path(src).resolve():
        raise UserError(f"{dst}: source and target are the same; name another folder")
    ours = (path / CONFIG_FILE).is_file() and read_json(path / CONFIG_FILE).get("format") == FORMAT
    if not path.is_dir() or (any(path.iterdir()) and not ours):
        raise UserError(f"{dst}: exists and is no model folder of ours; name another folder")


def run(args: argparse.Namespace) -> int:
    """Converts and prints the report; nothing is written unless everything fits."""
    check_target(args.src, args.dst)
    loaded = load_clip(args.src, model=args.model)
    if args.image_size is not None:
        loaded = resize_clip(loaded, args.image_size)
    name = args.model or loaded.config.name
    config = dataclasses.replace(loaded.config, name=name)
    save_folder(
        args.dst,
        config,
        loaded.params,
        loaded.preprocess,
        loaded.tokenizer,
        {**loaded.provenance, "name": name},
        loaded.defaults,
        args.dtype,
        loaded.extras,
        loaded.extras_config,
    )
    console = Console()
    console.print(report_table(loaded.report))
    console.print(f"{name}: {loaded.provenance['saw']}")
    console.print(f"wrote {args.dst} ({args.dtype})")
    return 0

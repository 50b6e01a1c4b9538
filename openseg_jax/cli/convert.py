"""`openseg convert SRC DST`: any supported weights into a folder of ours, or big_vision's npz."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from rich.console import Console
from rich.table import Table

from openseg_jax.compat.big_vision import model_config
from openseg_jax.errors import UserError
from openseg_jax.weights.big_vision import LAYOUTS, check_writable, save_npz
from openseg_jax.weights.folder import CONFIG_FILE, FORMAT, read_json, save_folder
from openseg_jax.weights.load import load_clip, resize_clip
from openseg_jax.weights.loaded import LoadedClip
from openseg_jax.weights.npz import is_npz
from openseg_jax.weights.npz_about import ABOUT_FILE, about_folder, check_about, write_about
from openseg_jax.weights.report import Report
from openseg_jax.weights.safetensors import STORAGE

DESCRIPTION = (
    "Convert weights (OpenAI .pt, open_clip, transformers, big_vision npz, MAFT and FreeSeg "
    "checkpoints) to a folder, or a SigLIP or LiT to an npz file for big_vision."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.description = DESCRIPTION
    parser.add_argument("src", help="a file, a folder, or a name from `openseg models`")
    parser.add_argument(
        "dst", help="the folder to write, or FILE.npz; an older one of ours is replaced"
    )
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
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        help="of blocks in FILE.npz: apart, as SigLIP's (default), or stacked, as SigLIP 2's",
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
    if Path(src).exists() and path.resolve() == Path(src).resolve():
        raise UserError(f"{dst}: source and target are the same; name another folder")
    if path.suffix == ".npz" and path.exists() and is_npz(path):
        if not (about_folder(path) / ABOUT_FILE).is_file():
            raise UserError(
                f"{dst}: exists, and no {about_folder(path).name} beside it says that it is ours; "
                "name another file"
            )
        return
    check_folder_target(dst)


def check_folder_target(dst: str) -> None:
    """Raises UserError where a folder cannot be written without destroying something of others."""
    path = Path(dst)
    if not path.exists():
        return
    ours = (path / CONFIG_FILE).is_file() and read_json(path / CONFIG_FILE).get("format") == FORMAT
    if not path.is_dir() or (any(path.iterdir()) and not ours):
        raise UserError(f"{dst}: exists and is no model folder of ours; name another folder")


def run(args: argparse.Namespace) -> int:
    """Converts and prints the report; nothing is written unless everything fits."""
    check_target(args.src, args.dst)
    to_npz = Path(args.dst).suffix == ".npz"
    if args.layout and not to_npz:
        raise UserError(
            f"--layout: only for an npz file, got {args.dst}; leave it out or name FILE.npz"
        )
    loaded = load_clip(args.src, model=args.model)
    if args.image_size is not None:
        loaded = resize_clip(loaded, args.image_size)
    name = args.model or loaded.config.name
    loaded = dataclasses.replace(
        loaded,
        config=dataclasses.replace(loaded.config, name=name),
        provenance={**loaded.provenance, "name": name},
    )
    notes = _write_npz(args, loaded) if to_npz else _write_folder(args, loaded)
    console = Console()
    console.print(report_table(loaded.report))
    for line in (f"{name}: {loaded.provenance['saw']}", f"wrote {args.dst} ({args.dtype})", *notes):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    return 0


def _write_folder(args: argparse.Namespace, loaded: LoadedClip) -> list[str]:
    save_folder(
        args.dst,
        loaded.config,
        loaded.params,
        loaded.preprocess,
        loaded.tokenizer,
        loaded.provenance,
        loaded.defaults,
        args.dtype,
        loaded.extras,
        loaded.extras_config,
    )
    return []


def _write_npz(args: argparse.Namespace, loaded: LoadedClip) -> list[str]:
    """Writes FILE.npz and what it cannot hold beside it; returns what to tell the person."""
    path, scan = Path(args.dst), args.layout == "scan"
    check_writable(loaded.config)
    check_about(path)
    # The large file first: what a full disk stops has then left nothing behind.
    save_npz(path, loaded.params, loaded.config, scan=scan, dtype=args.dtype)
    beside = write_about(
        path, loaded.tokenizer, loaded.preprocess, loaded.provenance, loaded.defaults
    )
    # big_vision takes only paths with a slash in them.
    where = str(path) if "/" in str(path) else f"./{path}"
    notes = [
        f"wrote {beside}: tokenizer, preprocessing and provenance, which an npz file cannot hold",
        f"in big_vision: model_name = 'proj.image_text.two_towers', model_init = {where!r}, "
        f"model = {model_config(loaded.config, scan=scan)}",
    ]
    if loaded.extras:
        notes.append(f"left out, big_vision has no place for it: {', '.join(loaded.extras)}")
    return notes

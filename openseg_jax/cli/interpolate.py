"""`openseg interpolate BEFORE AFTER OUT`: weights between those before and after a fine-tuning."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from openseg_jax.cli.convert import check_target
from openseg_jax.errors import UserError, expected
from openseg_jax.weights.folder import CONFIG_FILE, save_folder
from openseg_jax.weights.interpolate import check_alike, interpolate
from openseg_jax.weights.load import load_clip
from openseg_jax.weights.loaded import LoadedClip
from openseg_jax.weights.safetensors import STORAGE

DESCRIPTION = (
    "WiSE-FT: write (1 − α)·BEFORE + α·AFTER, which keeps much of what both know. Several α write "
    "OUT/alpha_…; --evaluate prints the zero-shot accuracy of each."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.description = DESCRIPTION
    parser.add_argument("before", help="the weights that were fine-tuned: a name, file or folder")
    parser.add_argument("after", help="what became of them")
    parser.add_argument(
        "out", nargs="?", help="the folder to write; may be left out with --evaluate"
    )
    parser.add_argument(
        "--alpha", default="0.5", metavar="LIST", help="0 before … 1 after, e.g. 0,0.5,1 (0.5)"
    )
    parser.add_argument(
        "--dtype", default="float32", choices=sorted(STORAGE), help="of storage (default float32)"
    )
    asked = parser.add_argument_group("zero-shot evaluation")
    asked.add_argument(
        "--evaluate", action="append", default=[], metavar="PATH",
        help="a folder with one folder of pictures for each class, or miniature:STREAM:SEED; "
        "repeat it for several",
    )  # fmt: skip
    asked.add_argument(
        "--labels", default="", metavar="NAME",
        help="names of the sorted folders: a vocabulary or a .txt file (the folders' own names)",
    )  # fmt: skip
    asked.add_argument("--templates", default="", help="prompts (openai80; car15 for miniature)")
    asked.add_argument("--limit", type=int, default=0, help="pictures at most (0: all)")
    asked.add_argument("--json", action="store_true", help="print JSON instead of a table")


def parse_alphas(text: str) -> list[float]:
    """Reads "0,0.5,1"; anything but distinct numbers in [0, 1] is a `UserError`."""
    try:
        alphas = [float(part) for part in text.split(",")]
    except ValueError:
        alphas = [math.nan]
    if not all(0.0 <= a <= 1.0 for a in alphas) or len(set(alphas)) < len(alphas):
        raise expected("--alpha", "distinct numbers in [0, 1]", repr(text), "try 0,0.25,0.5,0.75,1")
    return alphas


def targets(args: argparse.Namespace, alphas: list[float]) -> list[Path | None]:
    """Names the folder of each α, or raises UserError where one would destroy something."""
    if args.out is None:
        if not args.evaluate:
            raise expected("OUT", "a folder to write", "none", "give one, or --evaluate")
        return [None] * len(alphas)
    out = Path(args.out)
    if len(alphas) == 1:
        found = [out]
    elif (out / CONFIG_FILE).exists():
        raise UserError(f"{out}: is a model folder; several α need a folder to put theirs in")
    else:
        found = [out / f"alpha_{alpha:g}" for alpha in alphas]
    for path in found:
        for source in (args.before, args.after):
            check_target(source, str(path))
    return list(found)


def run(args: argparse.Namespace) -> int:
    """Interpolates; nothing is written unless the two sides and all targets fit."""
    alphas = parse_alphas(args.alpha)
    folders = targets(args, alphas)
    before, after = load_clip(args.before), load_clip(args.after)
    check_alike(before, after)
    evaluators = _evaluators(args, after)
    rows, console = [], Console(stderr=args.json)
    for alpha, folder in zip(alphas, folders, strict=True):
        found = interpolate(before, after, alpha)
        if folder is not None:
            save_folder(
                folder, found.config, found.params, found.preprocess, found.tokenizer,
                found.provenance, found.defaults, args.dtype, found.extras, found.extras_config,
            )  # fmt: skip
            console.print(f"wrote {folder} (alpha {alpha:g}, {args.dtype})", soft_wrap=True)
            if "methods" in found.provenance:
                console.print(f"  {found.provenance['methods']}", soft_wrap=True)
        rows.append({"alpha": alpha, **{p: f(found.params) for p, f in evaluators.items()}})
    if args.json:
        print(json.dumps(rows, indent=1))
    elif evaluators:
        console.print(_table(rows, list(evaluators)))
    return 0


def _evaluators(args: argparse.Namespace, like: LoadedClip) -> dict[str, Any]:
    if not args.evaluate:
        return {}
    # JAX's training part is imported only where it is asked for.
    from openseg_jax.train.zero_shot import clip_evaluator

    return {
        path: clip_evaluator(
            like, path, labels=args.labels, templates=args.templates, limit=args.limit
        )
        for path in args.evaluate
    }


def _table(rows: list[dict[str, Any]], paths: list[str]) -> Table:
    table = Table(title="zero-shot accuracy, %")
    table.add_column("alpha", justify="right")
    kinds = {
        path: [k for k in ("top1", "top5") if f"zero_shot/{k}" in rows[0][path]] for path in paths
    }
    short = [Path(path).name for path in paths]
    names = short if len(set(short)) == len(short) else paths
    for path, name in zip(paths, names, strict=True):
        count = rows[0][path]["zero_shot/pictures"]
        for kind in kinds[path]:
            table.add_column(f"{name}\n{kind} of {count:,.0f}", justify="right", overflow="fold")
    for row in rows:
        shares = [row[p][f"zero_shot/{kind}"] for p in paths for kind in kinds[p]]
        table.add_row(f"{row['alpha']:g}", *(f"{100 * share:.1f}" for share in shares))
    return table

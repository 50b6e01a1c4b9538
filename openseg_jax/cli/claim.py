"""`openseg claim`: papers' claims, tried on the miniature world."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from openseg_jax.cli.shared import progress_bar
from openseg_jax.errors import UserError, expected, unknown_name

DESCRIPTION = (
    "Try papers' claims on the miniature world. clip_dense: does a changed last block let a frozen "
    "CLIP name pixels better than the plain one? maft: does mask-aware fine-tuning name noisy "
    "masks better than the frozen CLIP, also for things whose masks it never saw? Without "
    "--workdir the shipped fine-tuned tower is measured on every world; with it, one tower is "
    "trained for each world first. Nothing is tuned on the test stream. Numbers are about that "
    "world only."
)
CLAIMS = ("clip_dense", "maft")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    parser.description = DESCRIPTION
    parser.add_argument("method", help="clip_dense or maft")
    parser.add_argument("--model", default="miniature", help="a name or folder (miniature)")
    parser.add_argument("--seeds", type=int, default=3, help="worlds, from seed 0 (3)")
    parser.add_argument("--scenes", type=int, default=200, help="scenes of each world (200)")
    parser.add_argument(
        "--workdir", metavar="DIR", help="maft: train a tower for each world here; resumes"
    )
    parser.add_argument(
        "--start",
        type=int,
        metavar="BLOCK",
        help="maft: first masked block; chosen on validation if left out",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the table; the exit code is 1 when the claim does not hold on every world."""
    if args.method not in CLAIMS:
        unknown_name(args.method, CLAIMS, "method with a claim")
    if args.seeds < 1:
        raise expected("--seeds", "at least 1", str(args.seeds), "try 3")
    if args.method == "clip_dense":
        from openseg_jax.cli.claim_clip_dense import run as run_clip_dense

        return run_clip_dense(args)
    from openseg_jax.eval.miniature_maft import STARTS, measure
    from openseg_jax.weights.load import load_clip

    start = load_clip(args.model)
    if not args.workdir and "visual" not in start.extras.get("maft", {}):
        raise UserError(
            f"--model: {args.model!r} has no tower that was fine-tuned on masks; give --workdir "
            "to train one for each world"
        )
    rows = []
    for seed in range(args.seeds):
        tuned = load_clip(_train(seed, args)) if args.workdir else start
        with progress_bar() as bar:
            say = functools.partial(_say, bar, bar.add_task(f"world {seed}", total=None), seed)
            starts = STARTS if args.start is None else (args.start,)
            rows.append(
                measure(start, tuned, seed=seed, scenes=args.scenes, starts=starts, progress=say)
            )
    holds = all(row.holds for row in rows)
    if args.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    else:
        _print(rows, holds)
    return 0 if holds else 1


def _say(bar: Any, task: Any, seed: int, text: str) -> None:
    bar.update(task, description=f"world {seed}: {text}")


def _train(seed: int, args: argparse.Namespace) -> Path:
    """Fine-tunes on world `seed`, or finds that it was done; returns the model folder."""
    from openseg_jax.cli.train import load_config, override
    from openseg_jax.train.export import export_state
    from openseg_jax.train.loop import train

    folder = Path(args.workdir) / f"world{seed}"
    model = folder / "model"
    if not model.is_dir():
        settings = [f"seed={seed}", f"input.seed={seed}", f"init={args.model}"]
        config = override(load_config("miniature_maft"), settings)
        export_state(config, model, train(config, folder))
    return model


def _print(rows: list[Any], holds: bool) -> None:
    from openseg_jax.eval.miniature_maft import CLAIM

    title = "MAFT on the miniature world: mIoU from 32 noisy proposals, all 30 names, %"
    table = Table(title=title)
    for name in ("world", "scenes", "side", "frozen", "fine-tuned", "gain", "95 % interval"):
        table.add_column(name, justify="right")
    for side in CLAIM:
        for row in rows:
            low, high = row.interval[side]
            table.add_row(
                str(row.seed), str(row.scenes), side, f"{100 * row.frozen[side]:.1f}",
                f"{100 * row.tuned[side]:.1f}", f"{100 * row.gain[side]:+.1f}",
                f"{100 * low:+.1f} to {100 * high:+.1f}",
            )  # fmt: skip
        mean = np.mean([row.gain[side] for row in rows])
        table.add_row(
            "mean", "", side, "", "", f"{100 * mean:+.1f}", f"claim {100 * CLAIM[side]:+.0f}"
        )
    console = Console()
    console.print(table)
    for row in rows:
        said = "; ".join(
            f"{name}: masks from block {c.start}, {c.size}×{c.size}, temperature {c.temperature:g}"
            for name, c in row.chosen.items()
        )
        console.print(f"world {row.seed}, chosen on validation: {said}", soft_wrap=True)
    console.print("the claim holds on every world" if holds else "the claim is missed")

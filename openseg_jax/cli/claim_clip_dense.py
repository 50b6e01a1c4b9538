"""`openseg claim clip_dense`: what the published last blocks are worth on the miniature world."""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from openseg_jax.cli.shared import progress_bar
from openseg_jax.errors import UserError


def run(args: argparse.Namespace) -> int:
    """Prints the table; the exit code is 1 when a changed block loses to the plain one."""
    if args.workdir or args.start is not None:
        raise UserError("--workdir, --start: belong to the claim of maft; leave them out")
    from openseg_jax.eval.miniature_clip_dense import measure
    from openseg_jax.weights.load import load_clip

    model, rows = load_clip(args.model), []
    for seed in range(args.seeds):
        with progress_bar() as bar:
            task = bar.add_task(f"world {seed}", total=None)

            def say(text: str, bar: Any = bar, task: Any = task, seed: int = seed) -> None:
                bar.update(task, description=f"world {seed}: {text}")

            rows.append(measure(model, seed=seed, scenes=args.scenes, progress=say))
    holds = all(row.holds for row in rows)
    if args.json:
        print(json.dumps([row.to_json() for row in rows], indent=1))
    else:
        print_table(rows, holds)
    return 0 if holds else 1


def print_table(rows: list[Any], holds: bool) -> None:
    """Prints mIoU by variant and rule: the mean over worlds, and each world."""
    from openseg_jax.eval.miniature_clip_dense import RULES

    titles = {
        "all": "all 30 names", "stuff_texts": "things, stuff texts as background",
        "threshold": "things, below a threshold",
    }  # fmt: skip
    table = Table(
        title=f"dense CLIP on the miniature world: mIoU, %, {rows[0].scenes} scenes of "
        f"{len(rows)} worlds: mean (each world)"
    )
    table.add_column("last block")
    for rule in RULES:
        table.add_column(titles[rule], justify="right")
    table.add_column("scale, threshold", justify="right")
    for name in rows[0].tuned:
        cells = []
        for rule in RULES:
            scores = [100 * row.miou(name, rule) for row in rows]
            each = " ".join(f"{score:.1f}" for score in scores)
            cells.append(f"{np.mean(scores):.1f} ({each})")
        chosen = " ".join(f"{r.tuned[name].scale:g}, {r.tuned[name].threshold:g};" for r in rows)
        table.add_row(name, *cells, chosen.rstrip(";"))
    console = Console()
    console.print(table)
    console.print(
        "every changed last block beats the plain one on every world" if holds
        else "the claim is missed: a changed last block does not beat the plain one"
    )  # fmt: skip

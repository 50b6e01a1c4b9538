"""`openseg gates --method segclip`: SegCLIP beside what its frozen CLIP does by itself."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from openseg_jax.cli.shared import progress_bar

LABELS = {
    "segclip": "SegCLIP",
    "patch_text": "frozen patch-text similarity",
    "patch_text_top": "the same, five classes a picture",
    "segclip_oracle": "SegCLIP's regions, oracle names",
    "kmeans_oracle": "k-means on frozen tokens, oracle",
}


def run(models: Sequence[str], args: argparse.Namespace) -> int:
    """Prints a row for each training and their mean; the exit code is 1 when a gate is missed.

    Args:
        models: folders with a SegCLIP, one for each training.
        args: seeds, scenes, stream and json of `openseg gates`.
    """
    from openseg_jax.eval.miniature_contest import Contest, pool

    rows = []
    for model in models:
        contest, found = Contest(model), []
        for seed in range(args.seeds):
            with progress_bar() as bar:
                task = bar.add_task(f"{contest.name} on world {seed}", total=args.scenes)
                found.append(
                    contest.measure(
                        seed=seed, stream=args.stream, scenes=args.scenes,
                        progress=lambda done, _, b=bar, t=task: b.update(t, completed=done),
                    )
                )  # fmt: skip
        rows.append(pool(found))
    passed = all(row.passed for row in rows)
    if args.json:
        said = [{"model": m, **row.to_json()} for m, row in zip(models, rows, strict=True)]
        print(json.dumps({"segclip": said, "passed": passed}, indent=1))
    else:
        console = Console()
        console.print(_table(models, rows, args.stream))
        console.print("gates passed" if passed else "gates missed")
    return 0 if passed else 1


def _table(models: Sequence[str], rows: Sequence[Any], stream: str) -> Table:
    from openseg_jax.eval.miniature_contest import BACKGROUND_FACTOR, spread

    table = Table(
        title=f"Mean IoU over the 24 things, %, {stream} stream of the miniature world",
        caption="95 % intervals: over scenes for one model, over trainings for the mean",
    )
    table.add_column("")
    for model in models:
        table.add_column(model, justify="right", overflow="fold")
    several = len(rows) > 1
    if several:
        table.add_column("mean", justify="right")
    for name, label in LABELS.items():
        cells = [_percent(row.foreground(name), row.interval(name)) for row in rows]
        if several:
            mean, half = spread([row.foreground(name) for row in rows])
            cells.append(f"{100 * mean:.1f} ± {100 * half:.1f}")
        table.add_row(label, *cells)
    leads = [row.interval("segclip", "patch_text") for row in rows]
    table.add_row(
        "SegCLIP less patch-text", *(f"{100 * a:+.1f} to {100 * b:+.1f}" for a, b in leads)
    )
    least = [f"{100 * BACKGROUND_FACTOR * row.all_background:.1f}" for row in rows]
    table.add_row("3 × all background, with it", *least)
    table.add_row("regions used in a scene", *(f"{row.groups:.1f}" for row in rows))
    table.add_row("scenes", *(str(row.scenes) for row in rows))
    return table


def _percent(value: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"

"""`openseg gates`: measures the miniature on its untouched test stream."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from openseg_jax.cli.shared import progress_bar
from openseg_jax.errors import UserError, expected

DESCRIPTION = (
    "Measure a CLIP on the miniature world: zero-shot top-1 of cropped things and presence mAP, "
    "and CaR's mIoU with and without its recurrence beside an image-level filter, on a test stream "
    "that nothing was tuned on. Numbers are about that world only."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.description = DESCRIPTION
    parser.add_argument(
        "--method", choices=("car", "segclip"), default="car", help="whose gates (car)"
    )
    parser.add_argument(
        "--model",
        action="append",
        help="a name or folder (miniature); for segclip repeat it, one for each training",
    )
    parser.add_argument("--seeds", type=int, default=3, help="worlds, from seed 0 (3)")
    parser.add_argument("--scenes", type=int, default=400, help="scenes of each world (400)")
    parser.add_argument(
        "--stream", choices=("test", "val"), default="test", help="val to choose by (test)"
    )
    parser.add_argument(
        "--car-scenes", type=int, default=100, help="scenes of each world for CaR; 0 skips (100)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with every class")


def run(args: argparse.Namespace) -> int:
    """Prints the numbers; the exit code is 1 when a gate is missed."""
    from openseg_jax.eval.gates import GATES, clip_scores
    from openseg_jax.eval.miniature_car import CAR_GATE
    from openseg_jax.weights.load import load_clip

    for flag, least in (("seeds", 1), ("scenes", 1), ("car_scenes", 0)):
        if getattr(args, flag) < least:
            name = f"--{flag.replace('_', '-')}"
            raise expected(name, f"at least {least}", str(getattr(args, flag)), "leave it out")
    models = args.model or ["miniature"]
    if args.method == "segclip":
        from openseg_jax.cli.gates_segclip import run as run_segclip

        return run_segclip(models, args)
    if len(models) > 1:
        raise UserError(f"--model: expected one, got {len(models)}; ask for them one by one")
    loaded = load_clip(models[0])
    found = [
        clip_scores(loaded, seed=seed, stream=args.stream, scenes=args.scenes)
        for seed in range(args.seeds)
    ]
    passed = all(getattr(row, name) >= least for row in found for name, least in GATES.items())
    contests = [_contest(loaded, seed, args) for seed in range(args.seeds) if args.car_scenes > 0]
    passed = passed and all(row.gain >= CAR_GATE for row in contests)
    if args.json:
        said = {
            "clip": [dataclasses.asdict(row) for row in found],
            "car": [row.to_json() for row in contests],
        }
        print(json.dumps(said, indent=1))
        return 0 if passed else 1
    table = Table(title=f"{loaded.provenance['name']}: {args.stream} stream of the miniature world")
    for name in ("world seed", "scenes", "crops", "zero-shot top-1", "presence mAP"):
        table.add_column(name, justify="right")
    for row in found:
        table.add_row(
            str(row.seed), str(row.scenes), str(row.crops), f"{row.top1:.3f}", f"{row.presence:.3f}"
        )
    table.add_row("gate", "", "", f"{GATES['top1']:.2f}", f"{GATES['presence']:.2f}")
    console = Console()
    console.print(table)
    weak = _weakest(found)
    console.print(f"saw: {loaded.provenance['saw']}")
    console.print(f"weakest: {weak}")
    if contests:
        console.print(_car_table(contests, CAR_GATE))
    console.print("gates passed" if passed else "gates missed")
    return 0 if passed else 1


def _contest(loaded: Any, seed: int, args: argparse.Namespace) -> Any:
    from openseg_jax.eval.miniature_car import car_miou

    with progress_bar() as bar:
        task = bar.add_task(f"CaR on world {seed}", total=args.car_scenes)
        return car_miou(
            loaded, seed=seed, stream=args.stream, scenes=args.car_scenes,
            progress=lambda done, _: bar.update(task, completed=done),
        )  # fmt: skip


def _car_table(contests: list, gate: float) -> Table:
    table = Table(title="CaR with all 30 names: mIoU over the classes in the ground truth, %")
    names = ("world seed", "scenes", "recurrence", "one pass", "gain", "image filter", "threshold")
    for name in names:
        table.add_column(name, justify="right")
    for row in contests:
        miou = {name: f"{100 * value:.1f}" for name, value in row.miou.items()}
        table.add_row(
            str(row.seed), str(row.scenes), miou["recurrence"], miou["one_pass"],
            f"{100 * row.gain:.1f}", miou["image_filter"], f"{row.threshold:.3f}",
        )  # fmt: skip
    table.add_row("gate", "", "", "", f"{100 * gate:.1f}", "", "")
    return table


def _weakest(found: list) -> str:
    """Names the three worst things of each question, over all worlds."""
    said = []
    for field, label in (("class_top1", "top-1"), ("class_presence", "presence")):
        totals: dict[str, list[float]] = {}
        for row in found:
            for name, value in getattr(row, field).items():
                totals.setdefault(name, []).append(value)
        means = sorted((sum(v) / len(v), name) for name, v in totals.items())
        said.append(f"{label} " + ", ".join(f"{name} {value:.2f}" for value, name in means[:3]))
    return "; ".join(said)

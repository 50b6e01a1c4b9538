"""Render scenes of the miniature world, segment them by words, and write an HTML report.

Needs no download. The whole vocabulary of 30 names is given for every scene; the report shows
which names CaR drops step by step, its mIoU beside one pass and an image-level filter, and what the
other methods make of the same scenes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.table import Table

from openseg_jax.cli.shared import output_console, progress_bar
from openseg_jax.files import atomic_write

_SHOWN = 6
_VALIDATION = 12
_COLUMNS = ("scene", "ground truth", "CaR", "one pass, nothing dropped")
# Pictures that come with scikit-image, small enough for a CPU: file, what it is, who made it.
_PHOTOS = (
    ("chelsea.png", "Chelsea the cat, photograph by Stéfan van der Walt (CC0)"),
    ("coffee.png", "a cup of coffee, photograph by Rachel Michetti (CC0)"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `openseg demo`."""
    parser.add_argument(
        "-o", "--out", default="openseg_out/demo", metavar="DIR", help="(%(default)s)"
    )
    parser.add_argument(
        "--images", type=int, default=24, metavar="N", help="scenes to measure (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="which world (%(default)s)")
    parser.add_argument("--model", default="miniature", help="name or folder (%(default)s)")
    parser.add_argument(
        "--refine", choices=("crf", "pamr", "none"), help="how CaR decides pixels (crf)"
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Runs `openseg demo`."""
    from openseg_jax.errors import expected

    if args.images < 1:
        raise expected("--images", "at least 1", str(args.images), "try 24")
    started = time.monotonic()
    from openseg_jax import report, viz
    from openseg_jax.cli import demo_methods
    from openseg_jax.eval import miniature_car as eval_car
    from openseg_jax.miniature.streams import scene

    settings = {} if args.refine is None else {"refine": args.refine}
    contest = eval_car.Contest(args.model, **settings)
    with progress_bar() as bar:
        task = bar.add_task("tuning the rival", total=None)
        contest.tune([scene("val", i, seed=args.seed) for i in range(_VALIDATION)])
        bar.update(task, description="segmenting", total=args.images, completed=0)
        truths = [scene("test", i, seed=args.seed) for i in range(args.images)]
        scores = eval_car.score(
            contest, truths, args.seed, _VALIDATION,
            progress=lambda done, _: bar.update(task, completed=done),
        )  # fmt: skip
        bar.update(task, description="the other methods", total=None)
        others = demo_methods.columns(contest.car.cam, truths)
        bar.update(task, description="photographs and report")
        shown, rows = _scenes(contest, truths)
        parts = [*_introduction(scores), *shown, *demo_methods.section(others, truths)]
        parts += _photographs(contest)
    seconds = time.monotonic() - started
    parts += [report.paragraph(f"Made in {seconds:.0f} s on {_device()}.", faint=True)]
    page = report.write_page(
        Path(args.out) / "report.html", "openseg_jax on the miniature world", parts,
        footer=_footer(contest),
    )  # fmt: skip
    with atomic_write(Path(args.out) / "scenes.png") as aside:
        sheet = viz.grid(rows, [_COLUMNS] * len(rows), height=300)
        Image.fromarray(sheet).save(aside, "PNG")
    _print(scores, others, page, seconds)
    return 0


def _introduction(scores: Any) -> Iterator[str]:
    from openseg_jax import report

    yield report.paragraph(
        "Every picture in the first part was drawn by a program and is exactly labelled. CaR gets "
        "all 30 names of that world for every scene and finds out by itself which are there: it "
        "draws a mask for each name, asks CLIP whether the masked region looks like the name, "
        "drops names that do not, and repeats until nothing is dropped."
    )
    yield report.heading("Measured on the miniature world")
    yield report.table(
        ("what", "mIoU, %", "pixel accuracy, %"),
        [
            (label, 100 * found.miou["gt"], 100 * found.pixel_accuracy)
            for label, found in _labelled(scores)
        ],
    )
    yield report.paragraph(
        f"{scores.scenes} scenes from the start of the test stream, world seed {scores.seed}; mIoU "
        "over the classes in the ground truth. The image-level filter keeps names whose similarity "
        f"with the whole picture exceeds {scores.threshold:.3f}, tuned on "
        f"{scores.validation_scenes} validation scenes. These numbers are about the miniature and "
        "say nothing about photographs.",
        faint=True,
    )


def _labelled(scores: Any) -> list[tuple[str, Any]]:
    names = {
        "recurrence": "CaR, with recurrence",
        "one_pass": "one pass, no name dropped",
        "image_filter": "image-level filter, then one pass",
    }
    return [(names[key], found) for key, found in scores.measured.items()]


def _scenes(contest: Any, truths: Any) -> tuple[list[str], list[list[np.ndarray]]]:
    """Returns the report's part about single scenes, and its pictures as rows."""
    from openseg_jax import report, viz
    from openseg_jax.miniature.world import CLASS_NAMES

    parts, rows = [report.heading("Scenes")], []
    for number, truth in enumerate(truths[:_SHOWN]):
        history: list[tuple[list[str], list[str]]] = []

        def observe(event: dict[str, Any], history: Any = history) -> None:
            kept = set(event["kept"].tolist())
            alive = event["alive"].tolist()
            history.append(
                (
                    [CLASS_NAMES[i] for i in alive if i in kept],
                    [CLASS_NAMES[i] for i in alive if i not in kept],
                )
            )

        result = contest.recurrence(truth.image, observe)
        single = contest.one_pass(truth.image)
        row = [
            viz.enlarge(truth.image),
            *(
                viz.overlay(truth.image, np.asarray(labels), CLASS_NAMES, max_entries=8)
                for labels in (truth.semantic, result.label_map(), single.label_map())
            ),
        ]
        rows.append(row)
        figures = [report.figure(x, text) for x, text in zip(row, _COLUMNS, strict=True)]
        parts += [
            report.heading(f"Test scene {number}", 3),
            report.gallery(figures),
            report.steps(history),
        ]
    return parts, rows


def _photographs(contest: Any) -> Iterator[str]:
    from openseg_jax import api, report
    from openseg_jax.inputs.images import read_image
    from openseg_jax.miniature.world import CLASS_NAMES

    found = [(path, text) for path, text in _bundled() if path.is_file()]
    if not found:
        return
    yield report.heading("Real photographs")
    yield report.paragraph(
        "The miniature knows only its own world: it has never seen a photograph. The masks below "
        "show that the same command runs on real pictures of any size, not that it understands "
        "them. Convert real CLIP weights for that: openseg models lists them."
    )
    figures = []
    for path, text in found:
        image = read_image(path)
        (result,) = api.segment_batch(contest.car, [image], CLASS_NAMES)
        figures.append(report.figure(result.overlay(), f"{text}; segmented by the miniature"))
    yield report.gallery(figures)


def _bundled() -> list[tuple[Path, str]]:
    import importlib.util

    # Found without importing: scikit-image is large.
    spec = importlib.util.find_spec("skimage")
    folder = Path(spec.origin).parent / "data" if spec and spec.origin else Path()
    return [(folder / name, text) for name, text in _PHOTOS]


def _device() -> str:
    import os

    import jax

    device = jax.devices()[0]
    cores = f", {os.cpu_count()} cores" if device.platform == "cpu" else ""
    return f"{device.device_kind} (JAX {jax.__version__}{cores})"


def _footer(contest: Any) -> str:
    import openseg_jax

    about = contest.car.cam.provenance
    return (
        f"openseg_jax {openseg_jax.__version__}. Weights: {about.get('name')}, "
        f"{about.get('source')}, licence {about.get('licence')}; saw {about.get('saw')}. "
        f"Fingerprint {contest.car.cam.fingerprint}."
    )


def _print(scores: Any, others: Any, page: Path, seconds: float) -> None:
    table = Table(title=f"miniature world, {scores.scenes} test scenes, 30 names each")
    table.add_column("what")
    table.add_column("mIoU", justify="right")
    for label, found in _labelled(scores):
        table.add_row(label, f"{100 * found.miou['gt']:.1f} %")
    for column in others:
        table.add_row(column.title, f"{100 * column.miou:.1f} %")
    output_console().print(table)
    print(f"wrote {page} in {seconds:.0f} s; numbers are about the miniature only")

"""Where numbers of a training go: a file, TensorBoard where it is installed, and the screen."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from absl import logging
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from openseg_jax.errors import expected, unknown_name
from openseg_jax.files import atomic_write
from openseg_jax.train.tensorboard import TensorBoardWriter
from openseg_jax.types import UInt8

QUANTILES = (5, 50, 95)
"""Percentages that `metrics.jsonl` keeps of a histogram."""
WRITERS = ("auto", "tensorboard", "clu", "files")
"""What pictures and histograms, and a copy of the numbers, may go to."""
# Modules that a writer imports.
_NEEDS = {"tensorboard": ("tensorboard",), "clu": ("clu", "tensorflow")}


class Writer(Protocol):
    """The part of clu's MetricWriter that we use."""

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Records numbers of a step."""
        ...

    def write_images(self, step: int, images: Mapping[str, UInt8[np.ndarray, "n H W 3"]]) -> None:
        """Records pictures, each name with one or several."""
        ...

    def write_histograms(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Records how the numbers of arrays are spread."""
        ...

    def flush(self) -> None:
        """Makes sure that all is on disk."""
        ...

    def close(self) -> None:
        """Flushes and ends."""
        ...


class JsonLinesWriter:
    """Appends one JSON object a step to a file that any tool reads.

    Of histograms it keeps quantiles, as numbers "name/p5", "name/p50" and "name/p95"; pictures
    have no place in it.

    Args:
        path: the file; it is continued when it exists.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Records numbers of a step."""
        row = {"step": int(step), "time": round(time.time(), 3)}
        row |= {name: float(value) for name, value in scalars.items()}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def write_images(self, step: int, images: Mapping[str, UInt8[np.ndarray, "n H W 3"]]) -> None:
        """Ignores the pictures."""

    def write_histograms(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Records quantiles of the finite numbers."""
        row = {}
        for name, array in arrays.items():
            numbers = np.asarray(array, np.float64).ravel()
            numbers = numbers[np.isfinite(numbers)]
            if numbers.size:
                found = np.quantile(numbers, [q / 100 for q in QUANTILES])
                row |= {f"{name}/p{q}": x for q, x in zip(QUANTILES, found, strict=True)}
        self.write_scalars(step, row)

    def flush(self) -> None:
        """Makes sure that all is on disk."""
        self._file.flush()

    def close(self) -> None:
        """Flushes and ends."""
        self._file.close()


class PictureWriter:
    """Writes pictures as `NAME_STEP.png` where there is no TensorBoard to hold them.

    Args:
        folder: made when the first picture comes.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Ignores the numbers."""

    def write_images(self, step: int, images: Mapping[str, UInt8[np.ndarray, "n H W 3"]]) -> None:
        """Writes a file for each name; several pictures stand side by side."""
        for name, pictures in images.items():
            joined = np.concatenate(list(pictures), axis=1)
            path = self._folder / f"{name.replace('/', '_')}_{step:08d}.png"
            with atomic_write(path) as aside:
                Image.fromarray(joined).save(aside, "PNG", compress_level=1)

    def write_histograms(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Ignores the arrays."""

    def flush(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def check_writer(kind: str) -> None:
    """Raises `UserError` for a writer that is unknown, or lacks what it needs."""
    if kind not in WRITERS:
        unknown_name(kind, WRITERS, "watch.writer")
    lacking = [name for name in _NEEDS.get(kind, ()) if not importlib.util.find_spec(name)]
    if lacking:
        packages = " ".join("tensorflow-cpu" if name == "tensorflow" else name for name in lacking)
        raise expected(
            "watch.writer", f"{' and '.join(_NEEDS[kind])} for {kind!r}", f"no {lacking[0]}",
            f"pip install {packages}, or take auto",
        )  # fmt: skip


def make_writers(
    workdir: str | os.PathLike[str], kind: str = "auto", *, first: bool = True
) -> list[Writer]:
    """Opens `metrics.jsonl`, and a TensorBoard file or else a folder of pictures.

    Args:
        workdir: the training's folder.
        kind: one of `WRITERS`. "clu" takes the writers of `clu.metric_writers`, which need
            TensorFlow; "auto" takes our own TensorBoard writer where that is installed.
        first: False in all processes but the first, which write nothing and get no writer.

    Raises:
        UserError: for a writer that is unknown, or lacks what it needs.
    """
    check_writer(kind)
    if not first:
        return []
    workdir = Path(workdir)
    writers: list[Writer] = [JsonLinesWriter(workdir / "metrics.jsonl")]
    if kind == "clu":
        metric_writers: Any = importlib.import_module("clu.metric_writers")
        writers.append(metric_writers.SummaryWriter(os.fspath(workdir)))
    elif kind == "tensorboard" or (kind == "auto" and importlib.util.find_spec("tensorboard")):
        writers.append(TensorBoardWriter(workdir))
    else:
        writers.append(PictureWriter(workdir / "pictures"))
        if kind == "auto":
            logging.info("no TensorBoard here (openseg_jax[train]): numbers go to metrics.jsonl")
    return writers


class ProgressBar:
    """Shows steps, loss, examples a second and the time left; one line a record off a terminal.

    Args:
        total: steps of the training.
        done: steps done before this run.
        show: False shows nothing.
    """

    def __init__(self, total: int, done: int = 0, *, show: bool = True) -> None:
        console = Console(stderr=True)
        self._live = show and console.is_terminal
        self._lines = show and not console.is_terminal
        self._total = total
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
        )
        self._task = self._progress.add_task("training", total=total, completed=done, said="")

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, step: int) -> None:
        """Moves to a step."""
        self._progress.update(self._task, completed=step)

    def record(self, step: int, scalars: Mapping[str, float]) -> None:
        """Shows the numbers of a step."""
        rate = scalars.get("examples_per_second", 0.0)
        said = f"loss {scalars['loss']:.4f}  {rate:.0f} examples/s"
        self._progress.update(self._task, completed=step, said=said)
        if self._lines:
            logging.info("step %d/%d  %s", step, self._total, said)

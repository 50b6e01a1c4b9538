"""Where numbers of a training go: a file, TensorBoard where it is installed, and the screen."""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from absl import logging
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Writer(Protocol):
    """The part of clu's MetricWriter that we use."""

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Records numbers of a step."""
        ...

    def flush(self) -> None:
        """Makes sure that all is on disk."""
        ...

    def close(self) -> None:
        """Flushes and ends."""
        ...


class JsonLinesWriter:
    """Appends one JSON object a step to a file that any tool reads.

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

    def flush(self) -> None:
        """Makes sure that all is on disk."""
        self._file.flush()

    def close(self) -> None:
        """Flushes and ends."""
        self._file.close()


class SilentWriter:
    """Records nothing: for the processes beside the first."""

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Ignores the numbers."""

    def flush(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def make_writers(workdir: str | os.PathLike[str], *, first: bool = True) -> list[Writer]:
    """Opens `metrics.jsonl`, and clu's TensorBoard writer where its needs are installed.

    Args:
        workdir: the training's folder.
        first: False in all processes but the first, which then write nothing.
    """
    if not first:
        return [SilentWriter()]
    writers: list[Writer] = [JsonLinesWriter(Path(workdir) / "metrics.jsonl")]
    if all(importlib.util.find_spec(name) for name in ("tensorflow", "tensorboard")):
        from clu import metric_writers

        writers.append(metric_writers.SummaryWriter(os.fspath(workdir)))
    else:
        logging.info("no TensorBoard here (openseg_jax[train]): metrics go to metrics.jsonl only")
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

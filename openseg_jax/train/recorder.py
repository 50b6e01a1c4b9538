"""What a training tells while it runs: metrics gathered on the devices, means on the host."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from openseg_jax.tasks.base import Metrics
from openseg_jax.train.logging import ProgressBar, make_writers


class Recorder:
    """Keeps the metrics of steps until they are due, and hands their means to all writers.

    Args:
        workdir: the training's folder.
        steps: of the training.
        done: steps done before this run.
        examples: of a step, over all processes.
        rate: learning rate by step, from 0.
        show: the progress bar; only the first process shows or writes anything.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        steps: int,
        done: int,
        examples: int,
        rate: Callable[[int], Any],
        show: bool,
    ) -> None:
        first = jax.process_index() == 0
        self._writers = make_writers(workdir, first=first)
        self._bar = ProgressBar(steps, done, show=show and first)
        self._examples, self._rate = examples, rate
        self._pending: list[Metrics] = []
        self._clock, self._waited = time.perf_counter(), 0.0

    def __enter__(self) -> Recorder:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)
        for writer in self._writers:
            writer.close()

    def add(self, step: int, metrics: Metrics) -> None:
        """Takes a step's metrics without waiting for the devices."""
        self._pending.append(metrics)
        self._bar.advance(step)

    def waited(self, seconds: float) -> None:
        """Adds what the loop stood still for its next batch, on this process."""
        self._waited += seconds

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes numbers that belong to a step but not to every record: an evaluation's."""
        for writer in self._writers:
            writer.write_scalars(step, values)

    def record(self, step: int, **more: float) -> dict[str, float]:
        """Writes and returns the means since the last record; waits for the devices.

        Args:
            step: the last step that was added.
            more: numbers of the host, written beside them.
        """
        means = reduce_metrics(self._pending)
        now = time.perf_counter()
        means["examples_per_second"] = self._examples * len(self._pending) / (now - self._clock)
        means["input_wait"] = self._waited / (now - self._clock)
        means["learning_rate"] = float(self._rate(step - 1))
        means |= more
        self._pending, self._clock, self._waited = [], now, 0.0
        for writer in self._writers:
            writer.write_scalars(step, means)
        self._bar.record(step, means)
        return means

    def restart_clock(self) -> None:
        """Leaves what was done since the last record, a checkpoint say, out of the throughput."""
        self._clock, self._waited = time.perf_counter(), 0.0


def reduce_metrics(pending: list[Metrics]) -> dict[str, float]:
    """Averages (sum, count) pairs of several steps; the only wait for the devices."""
    host: Any = jax.device_get(pending)
    return {
        name: float(np.sum([m[name][0] for m in host]) / np.sum([m[name][1] for m in host]))
        for name in host[0]
    }

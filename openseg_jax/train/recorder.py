"""What a training tells while it runs: metrics gathered on the devices, means on the host."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from openseg_jax.errors import UserError
from openseg_jax.tasks.base import Metrics
from openseg_jax.train.flops import count_flops, fused_kernels
from openseg_jax.train.logging import ProgressBar, make_writers
from openseg_jax.train.measures import device_memory, host_memory, peak_flops
from openseg_jax.train.summary import RUNS, write_summary


class Recorder:
    """Keeps the metrics of steps until they are due, and hands their means to all writers.

    With every record go `examples_per_second` (also `_per_device`), `step_seconds`, `input_wait`
    (share of the time, 0 to 1, of the process that waited longest), `utilisation` (share of the
    devices' bfloat16 peak, where `cost` was told and the peak is known), `device_memory_peak` and
    `_limit` and `host_memory` (GiB, of the fullest), and `learning_rate`. On leaving, the first
    process writes `summary.md`.

    Args:
        workdir: the training's folder.
        steps: of the training.
        done: steps done before this run.
        examples: of a step, over all processes.
        rate: learning rate by step, from 0.
        show: the progress bar; only the first process shows or writes anything.
        facts: about the run, for the summary; ready for JSON.
        writer: see `train.logging.make_writers`.
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
        facts: Mapping[str, Any] | None = None,
        writer: str = "auto",
    ) -> None:
        self._workdir, self._first = Path(workdir), jax.process_index() == 0
        self._writers = make_writers(workdir, writer, first=self._first)
        self._bar = ProgressBar(steps, done, show=show and self._first)
        self._examples, self._rate, self._facts = examples, rate, dict(facts or {})
        self._steps, self._step = steps, done
        self._flops: float | None = None
        self._pending: list[Metrics] = []
        self._clock, self._waited = time.perf_counter(), 0.0

    def __enter__(self) -> Recorder:
        self._note("start", self._facts)
        self._bar.__enter__()
        return self

    def __exit__(self, kind: Any, *error: object) -> None:
        self._bar.__exit__(kind, *error)
        for writer in self._writers:
            writer.close()
        # An exception may say what its run came to; a run that just stops early was told to.
        outcome = "finished" if self._step >= self._steps else "stopped"
        if kind is not None:
            outcome = getattr(kind, "outcome", f"failed ({kind.__name__})")
        self._note("end", {"outcome": outcome})
        if self._first:
            try:
                write_summary(self._workdir)
            except UserError as problem:
                # A full disk, say: what ended the training matters more.
                logging.warning("no summary: %s", problem)

    def _note(self, event: str, facts: Mapping[str, Any]) -> None:
        if self._first:
            row = {"event": event, "time": round(time.time(), 3), "step": self._step, **facts}
            with (self._workdir / RUNS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def cost(self, traced: Any) -> None:
        """Takes the traced step: its FLOPs, over all devices, for the utilisation, and kernels."""
        self._flops = count_flops(traced)
        kernels = list(fused_kernels(traced))
        self._note("cost", {"step_flops": self._flops, "kernels": kernels})

    def add(self, step: int, metrics: Metrics) -> None:
        """Takes a step's metrics without waiting for the devices."""
        self._pending.append(metrics)
        self._step = step
        self._bar.advance(step)

    def waited(self, seconds: float) -> None:
        """Adds what the loop stood still for its next batch, on this process."""
        self._waited += seconds

    def leave_out(self, seconds: float) -> None:
        """Leaves time that a profiler took out of the throughput."""
        self._clock += seconds

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes numbers that belong to a step but not to every record: an evaluation's."""
        for writer in self._writers:
            writer.write_scalars(step, values)

    def show(self, step: int, pictures: Mapping[str, Any], histograms: Mapping[str, Any]) -> None:
        """Writes pictures, UInt8[n H W 3] each, and histograms of arrays."""
        for writer in self._writers:
            writer.write_images(step, {n: np.asarray(x) for n, x in pictures.items()})
            writer.write_histograms(step, {n: np.asarray(x) for n, x in histograms.items()})

    def record(self, step: int, **more: float) -> dict[str, float]:
        """Writes and returns the means since the last record; waits for the devices.

        With several processes all must call it at the same steps: they exchange what they measured.

        Args:
            step: the last step that was added.
            more: numbers of the host, written beside them.
        """
        means = reduce_metrics(self._pending)
        now = time.perf_counter()
        seconds = (now - self._clock) / len(self._pending)
        means["examples_per_second"] = self._examples / seconds
        means["examples_per_second_per_device"] = self._examples / seconds / jax.device_count()
        means["step_seconds"] = seconds
        peak = peak_flops(jax.devices()[0].device_kind)
        if self._flops is not None and peak is not None:
            means["utilisation"] = self._flops / seconds / (peak * jax.device_count())
        own = {"input_wait": self._waited / (now - self._clock)}
        means |= greatest({**own, **device_memory(), **host_memory()})
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


def greatest(values: Mapping[str, float]) -> dict[str, float]:
    """Returns each number's greatest over all processes, which must name the same ones."""
    if jax.process_count() == 1:
        return dict(values)
    names = sorted(values)
    row = np.array([values[name] for name in names], np.float32)
    found = np.asarray(multihost_utils.process_allgather(row)).max(axis=0)
    return {name: float(x) for name, x in zip(names, found, strict=True)}


def reduce_metrics(pending: list[Metrics]) -> dict[str, float]:
    """Averages (sum, count) pairs of several steps; the only wait for the devices."""
    host: Any = jax.device_get(pending)
    return {
        name: float(np.sum([m[name][0] for m in host]) / np.sum([m[name][1] for m in host]))
        for name in host[0]
    }

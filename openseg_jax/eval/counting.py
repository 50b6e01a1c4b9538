"""Counting labelled batches in a helper thread."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from openseg_jax.eval.confusion import confusion_matrix
from openseg_jax.eval.feed import Loaded, Source
from openseg_jax.eval.labeller import Labeller
from openseg_jax.eval.record import Log
from openseg_jax.inputs.augment import IGNORE

__all__ = ["Run", "score"]


def score(cells: Any, size: int) -> tuple[float, int]:
    """Computes a picture's own mean IoU over the classes in its truth, and its counted pixels."""
    places, counts = (np.asarray(x, np.int64) for x in cells)
    if not counts.size:
        return float("nan"), 0
    rows, columns = places // size, places % size
    truth = np.bincount(rows, counts, size)
    hit = np.bincount(rows, np.where(rows == columns, counts, 0), size)
    union = truth + np.bincount(columns, counts, size) - hit
    there = truth > 0
    return float((hit[there] / union[there]).mean()), int(counts.sum())


class Run:
    """Labels batches and counts them in a helper thread, with a clock on each part.

    Args:
        labeller: labels batches. log: keeps the counts. size: C, of the matrices.
        count: pictures of this process. resumed: those that the log has already.
        progress: called with (pictures done, pictures in all).
    """

    def __init__(
        self,
        labeller: Labeller,
        log: Log,
        size: int,
        count: int,
        resumed: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.labeller, self.log, self.size, self.count = labeller, log, size, count
        self.resumed, self.done = resumed, resumed
        self.tell = progress or (lambda done, count: None)
        self.input = self.device = self.metrics = self.loop = 0.0
        self._until = 0.0

    def all(self, batches: Iterator[Loaded], source: Source) -> None:
        """Goes through all batches."""
        begin = time.perf_counter()
        self.tell(self.done, self.count)
        waiting: collections.deque[Future] = collections.deque()
        with ThreadPoolExecutor(1) as helper:
            try:
                for loaded in self._timed(batches):
                    names = [source.items[i].name for i in loaded.indices]
                    placed = self.labeller.place(loaded.batch)
                    began = time.perf_counter()
                    labels = self.labeller.run(placed)
                    ended = time.perf_counter() if isinstance(labels, np.ndarray) else None
                    waiting.append(
                        helper.submit(self._count, names, loaded.truths, labels, began, ended)
                    )
                    # One batch is being counted, one is on the device: more would only wait.
                    while len(waiting) > 2:
                        self._finish(waiting.popleft())
                while waiting:
                    self._finish(waiting.popleft())
            finally:
                for job in waiting:
                    job.cancel()
                batches.close()  # type: ignore[attr-defined]
        self.loop = time.perf_counter() - begin

    def _timed(self, batches: Iterator[Loaded]) -> Iterator[Loaded]:
        while True:
            begin = time.perf_counter()
            loaded = next(batches, None)
            self.input += time.perf_counter() - begin
            if loaded is None:
                return
            yield loaded

    def _finish(self, job: Future) -> None:
        self.done += job.result()
        self.tell(self.done, self.count)

    def _count(
        self, names: Sequence[str], truths: Sequence[Any], labels: Any, began: float,
        ended: float | None,
    ) -> int:  # fmt: skip
        if ended is None:
            jax.block_until_ready(labels)
            ended = time.perf_counter()
        # Batches run one after the other: a later one begins when the one before it ends.
        self.device += max(ended - max(began, self._until), 0.0)
        self._until = max(ended, self._until)
        begin = time.perf_counter()
        found = np.asarray(labels)
        for name, truth, label in zip(names, truths, found, strict=False):
            own = label[: truth.shape[0], : truth.shape[1]]
            self.log.add(name, confusion_matrix(truth, own, self.size, ignore=IGNORE))
        self.metrics += time.perf_counter() - begin
        return len(names)

    def seconds(self) -> Mapping[str, float]:
        """Returns the clocks: of the loop, and in it of compiling, devices, counting, waiting."""
        return {
            "loop": self.loop, "compile": self.labeller.compile_seconds, "device": self.device,
            "metrics": self.metrics, "input": self.input,
        }  # fmt: skip

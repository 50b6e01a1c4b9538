"""One loop for every segmenter: pictures in, an exact confusion matrix out.

Threads read ahead, the devices label one batch while a helper thread counts the one before, and
every picture's counts go to a log as soon as they are there, so that a killed run goes on where it
stopped. Several processes share the pictures; their counts are added up at the end as integers.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from openseg_jax import api
from openseg_jax.errors import expected
from openseg_jax.eval.benchmarks import Benchmark, Texts
from openseg_jax.eval.confusion import confusion_matrix
from openseg_jax.eval.feed import Bucket, Feed, Loaded, Source, plan_buckets, sizes_of
from openseg_jax.eval.hosts import gather_bytes, share
from openseg_jax.eval.labeller import Labeller, most_rows
from openseg_jax.eval.record import Log
from openseg_jax.eval.result import ImageRow, Result
from openseg_jax.eval.rules import background_rule, handling, passes_for
from openseg_jax.inputs.augment import IGNORE
from openseg_jax.inputs.images import RESIZE_RULE
from openseg_jax.methods.base import Segmenter
from openseg_jax.types import Int

__all__ = ["Options", "check_source", "evaluate"]

_MASKS = 100  # that a method with proposals makes of a picture


@dataclasses.dataclass(frozen=True)
class Options:
    """How an evaluation runs; only `max_side` and `canvas` can change a number.

    Attributes:
        batch: pictures that a device is given at once, where memory allows.
        canvas: sizes are rounded up to multiples of so many pixels, so that few programs are
            compiled; 0 compiles one for each size.
        max_side: longer sides are reduced to this before segmentation, for methods that have no
            rule for the size of their own; labels are compared at the pictures' own size.
        threads: that read pictures.
        devices: of this process; None takes all.
    """

    batch: int = 8
    canvas: int = 64
    max_side: int = api.MAX_SIDE
    threads: int = 4
    devices: Sequence[Any] | None = None


def check_source(bench: Benchmark, source: Source, limit: int | None = None) -> int:
    """Checks that a data set fits a benchmark, and returns how many pictures are evaluated.

    Raises:
        UserError: for an empty set, a limit below 1, or other classes than the benchmark's.
    """
    if limit is not None and limit < 1:
        raise expected("--limit", "at least 1 picture", str(limit), "leave it out to take all")
    if not len(source):
        raise expected(
            "--data-dir", f"pictures with labels of {source.name}", "an empty set",
            f"prepare it again: openseg data prepare {source.name} --root DIR",
        )  # fmt: skip
    known = len(source.classes) - bool(source.background)
    wanted = len(bench.plain.names)
    if known != wanted:
        raise expected(
            "--data-dir", f"{source.name} with the {wanted} classes of {bench.name}",
            f"{known} classes", "prepare the data set again, or choose another benchmark",
        )  # fmt: skip
    if bench.background and (not source.background or source.facts.get("lacks_background")):
        raise expected(
            "--data-dir", f"{source.name} with its background labelled, which {bench.name} counts",
            "labels without it",
            f"prepare it with openseg data prepare {source.name}, or choose a benchmark "
            "without background",
        )  # fmt: skip
    return min(limit or len(source), len(source))


def evaluate(
    segmenter: Segmenter,
    bench: Benchmark,
    source: Source,
    texts: Texts,
    *,
    method: str,
    model: str,
    limit: int | None = None,
    workdir: str | os.PathLike[str] | None = None,
    options: Options | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Evaluates a method on a benchmark.

    Args:
        segmenter: the method on its weights, with the settings of `rules.settings_for`.
        bench: the benchmark. source: its data set. texts: what the method is told to look for.
        method, model: their names.
        limit: only the first so many pictures; None takes all.
        workdir: folder of the log that a killed run goes on from; None keeps none.
        options: how it runs.
        progress: called with (pictures done, pictures in all) of this process.
    Returns:
        the counts of all processes, the same in each.
    Raises:
        UserError: when data set and benchmark do not fit, a file is damaged or a disk is full.
    """
    start = time.perf_counter()
    options = options or Options()
    count = check_source(bench, source, limit)
    passes = passes_for(segmenter, bench, method, texts)
    host_loop = handling(method, segmenter).host_loop
    labeller = Labeller(passes, options.devices, host_loop=host_loop)
    facts = describe(segmenter, bench, source, texts, method, options)
    size = len(texts.names) + 1
    mine = list(share(count))
    log = Log(workdir, facts | {"names": _digest(source)}, size, jax.process_index())
    try:
        wanted = {i for i in mine if source.items[i].name not in log.found}
        run = _Run(labeller, log, size, len(mine), len(mine) - len(wanted), progress)
        if wanted:
            feed, buckets = _feed(segmenter, method, bench, source, labeller, options)
            run.all(feed.batches(buckets, wanted), source)
        payload = {source.items[i].name: log.found[source.items[i].name] for i in mine}
    finally:
        log.close()
    cells: dict[str, Any] = {}
    for part in gather_bytes(json.dumps(payload).encode()):
        cells |= json.loads(part)
    order = [source.items[i].name for i in range(count)]
    matrix = total([cells[name] for name in order], size)
    seconds = {"total": time.perf_counter() - start, **run.seconds()}
    facts |= {"pictures": count, "of": len(source), "resumed": run.resumed}
    return Result(
        benchmark=bench.name,
        method=method,
        model=model,
        classes=bench.class_names,
        matrix=matrix if bench.background else matrix[1:, 1:],
        background=bench.background,
        unseen=bench.unseen,
        rows=tuple(ImageRow(name, *score(cells[name], size)) for name in order),
        provenance=facts,
        timings=seconds,
        missed=None if bench.background else matrix[1:, 0],
    )


def describe(
    segmenter: Segmenter,
    bench: Benchmark,
    source: Source,
    texts: Texts,
    method: str,
    options: Options,
) -> dict[str, Any]:
    """Says everything that the numbers depend on, in the order it is read."""
    made = api.provenance(segmenter)
    versions = {"openseg_jax": made["openseg_jax"], "jax": made["jax"]}
    own = handling(method, segmenter).resizes
    resize = "the method's own" if own else f"{RESIZE_RULE} {options.max_side}"
    return {
        "benchmark": bench.name,
        "weights": made["models"],
        "data": {"name": source.name, **dict(source.facts)},
        "texts": texts.variant,
        "texts_sha": hashlib.sha256("\n".join(texts.names).encode()).hexdigest()[:12],
        "resize_rule": f"{resize}; masks return bilinearly to the size of the ground truth",
        "background_rule": background_rule(bench, method, texts),
        "convention": "gt: mean over the classes in the ground truth; union and all beside it",
        "method": method,
        "settings": made["settings"],
        "dtype": str(getattr(segmenter, "dtype", "float32")),
        "canvas": options.canvas,
        "versions": versions,
        "device": made["device"],
    }


def total(cells: Sequence[Any], size: int) -> Int[np.ndarray, "C C"]:
    """Adds up the counts of pictures, as integers."""
    flat = np.zeros(size * size, np.int64)
    for places, counts in cells:
        flat[places] += np.asarray(counts, np.int64)
    return flat.reshape(size, size)


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


def _digest(source: Source) -> str:
    names = "\n".join(item.name for item in source.items)
    return hashlib.sha256(names.encode()).hexdigest()


def _feed(
    segmenter: Segmenter, method: str, bench: Benchmark, source: Source, labeller: Labeller,
    options: Options,
) -> tuple[Feed, list[Bucket]]:  # fmt: skip
    taken = handling(method, segmenter)
    if options.batch < 1:
        raise expected("--batch", "at least 1", str(options.batch), "try 8")

    def fit(size: tuple[int, int]) -> tuple[int, int]:
        limit = max(size) if taken.resizes else api.side_limit(segmenter, size, options.max_side)
        if max(size) <= limit:
            return size
        height, width = (max(1, round(side * limit / max(size))) for side in size)
        return height, width

    def rows(bucket: Bucket) -> int:
        largest = (max(bucket.canvas[0], bucket.target[0]), max(bucket.canvas[1], bucket.target[1]))
        each = most_rows(masks, largest, options.batch)
        # No more rows than a bucket has pictures: the rest would only be filled up.
        each = min(each, -(-len(bucket.indices) // len(labeller.devices)))
        return each * len(labeller.devices)

    masks = max(_MASKS, *(len(one.names) for one in labeller.passes))
    sizes = sizes_of(source, options.threads)
    buckets = plan_buckets(sizes, fit=fit, work=taken.work, step=options.canvas)
    feed = Feed(source, bench, rows=rows, fit=fit, work=taken.work, threads=options.threads)
    return feed, buckets


class _Run:
    """Labels batches and counts them in a helper thread, with a clock on each part."""

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

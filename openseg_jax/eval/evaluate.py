"""One loop for every segmenter: pictures in, an exact confusion matrix out.

Threads read ahead, the devices label one batch while a helper thread counts the one before, and
every picture's counts go to a log as soon as they are there, so that a killed run goes on where it
stopped. Several processes share the pictures; their counts are added up at the end as integers.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from openseg_jax import api
from openseg_jax.errors import expected
from openseg_jax.eval.benchmarks import Benchmark, Texts
from openseg_jax.eval.counting import Run, score
from openseg_jax.eval.feed import Bucket, Feed, Source, plan_buckets, sizes_of
from openseg_jax.eval.hosts import share
from openseg_jax.eval.labeller import Labeller, most_rows
from openseg_jax.eval.record import Log, state_of, total
from openseg_jax.eval.result import ImageRow, Result
from openseg_jax.eval.rules import background_rule, handling, passes_for
from openseg_jax.inputs.images import RESIZE_RULE
from openseg_jax.methods.base import Segmenter

if TYPE_CHECKING:
    from openseg_jax.eval.report_html import Picture

__all__ = ["Evaluator", "Options", "check_source"]

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


class Evaluator:
    """A method on a benchmark, ready to run.

    Args:
        segmenter: the method on its weights, with the settings of `rules.settings_for`.
        bench: the benchmark. source: its data set. texts: what the method is told to look for.
        method, model: their names. A variant of the method comes after a slash.
        options: how it runs.

    Raises:
        UserError: when data set and benchmark do not fit, or an option is out of range.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        bench: Benchmark,
        source: Source,
        texts: Texts,
        *,
        method: str,
        model: str,
        options: Options | None = None,
    ) -> None:
        self.segmenter, self.bench, self.source, self.texts = segmenter, bench, source, texts
        self.method, self.model, self.options = method, model, options or Options()
        self.kind = method.partition("/")[0]
        self.handling = handling(self.kind, segmenter)
        check_source(bench, source)
        if self.options.batch < 1:
            raise expected("--batch", "at least 1", str(self.options.batch), "try 8")

    @functools.cached_property
    def labeller(self) -> Labeller:
        """The compiled side; texts are encoded when it is first asked for."""
        passes = passes_for(self.segmenter, self.bench, self.kind, self.texts)
        loops = self.handling.host_loop
        return Labeller(passes, self.options.devices, host_loop=loops)

    def run(
        self,
        *,
        limit: int | None = None,
        workdir: str | os.PathLike[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Result:
        """Evaluates.

        Args:
            limit: only the first so many pictures; None takes all.
            workdir: folder of the log that a killed run goes on from; None keeps none.
            progress: called with (pictures done, pictures in all) of this process.
        Returns:
            the counts of all processes, the same in each.
        Raises:
            UserError: when a file is damaged or a disk is full; what is counted stays counted.
        """
        start = time.perf_counter()
        count = check_source(self.bench, self.source, limit)
        names = [self.source.items[i].name for i in range(count)]
        size, mine = len(self.texts.names) + 1, list(share(count))
        facts = self.describe()
        decides = facts | {
            "pictures": state_of(self.source.items),
            "settings": api.provenance(self.segmenter)["settings"],
        }
        log = Log(workdir, decides, jax.process_index())
        try:
            wanted = {i for i in mine if names[i] not in log.found}
            run = Run(self.labeller, log, size, len(mine), len(mine) - len(wanted), progress)
            if wanted:
                run.all(self._feed.batches(self._buckets, wanted), self.source)
            cells = log.exchange([names[i] for i in mine])
        finally:
            log.close()
        return self._result(
            names,
            cells,
            facts | {"pictures": f"{count} of {len(self.source)}", "resumed": run.resumed},
            {"total": time.perf_counter() - start, **run.seconds()},
        )

    def _result(
        self,
        names: Sequence[str],
        cells: Mapping[str, Any],
        facts: Mapping[str, Any],
        timings: Mapping[str, float],
    ) -> Result:
        size = len(self.texts.names) + 1
        matrix, background = total([cells[name] for name in names], size), self.bench.background
        return Result(
            benchmark=self.bench.name,
            method=self.method,
            model=self.model,
            classes=self.bench.class_names,
            matrix=matrix if background else matrix[1:, 1:],
            background=background,
            unseen=self.bench.unseen,
            rows=tuple(ImageRow(name, *score(cells[name], size)) for name in names),
            provenance=facts,
            timings=timings,
            missed=None if background else matrix[1:, 0],
        )

    def look(self, names: Sequence[str]) -> dict[str, Picture]:
        """Segments some pictures again, for a report.

        Args:
            names: of pictures in the data set.
        """
        from openseg_jax.eval.report_html import Picture

        chosen = set(names)
        wanted = {i for i, item in enumerate(self.source.items) if item.name in chosen}
        found = {}
        for loaded in self._feed.batches(self._buckets, wanted):
            labels = np.asarray(self.labeller(loaded.batch)).astype(np.int32)
            for index, truth, label in zip(loaded.indices, loaded.truths, labels, strict=False):
                own = label[: truth.shape[0], : truth.shape[1]]
                image = self.source.read(index)[0]
                found[self.source.items[index].name] = Picture(image, truth, own)
        return found

    def describe(self) -> dict[str, Any]:
        """Says everything that the numbers depend on, in the order it is read."""
        made = api.provenance(self.segmenter)
        own, names = self.handling.resizes, "\n".join(self.texts.names)
        resize = "the method's own" if own else f"{RESIZE_RULE} {self.options.max_side}"
        return {
            "benchmark": self.bench.name,
            "weights": made["models"],
            "data": {
                "name": self.source.name,
                **{k: v for k, v in self.source.facts.items() if k != "histogram"},
            },
            "texts": self.texts.variant,
            "texts_sha": hashlib.sha256(names.encode()).hexdigest()[:12],
            "resize_rule": f"{resize}; masks return bilinearly to the size of the ground truth",
            "background_rule": background_rule(self.bench, self.kind, self.texts),
            "convention": "gt: mean over the classes in the ground truth; union and all beside it",
            "method": self.method,
            "settings": _changed(self.segmenter),
            "dtype": str(getattr(self.segmenter, "dtype", "float32")),
            "canvas": self.options.canvas,
            "versions": {"openseg_jax": made["openseg_jax"], "jax": made["jax"]},
            "device": made["device"],
        }

    @functools.cached_property
    def _buckets(self) -> list[Bucket]:
        sizes = sizes_of(self.source, self.options.threads)
        step = self.options.canvas
        return plan_buckets(sizes, fit=self._fit, work=self.handling.work, step=step)

    @functools.cached_property
    def _feed(self) -> Feed:
        return Feed(
            self.source, self.bench, rows=self._rows, fit=self._fit, work=self.handling.work,
            fill=not self.labeller.on_host, threads=self.options.threads,
        )  # fmt: skip

    def _fit(self, size: tuple[int, int]) -> tuple[int, int]:
        limit = max(size)
        if not self.handling.resizes:
            limit = api.side_limit(self.segmenter, size, self.options.max_side)
        if max(size) <= limit:
            return size
        height, width = (max(1, round(side * limit / max(size))) for side in size)
        return height, width

    def _rows(self, bucket: Bucket) -> int:
        largest = max(bucket.canvas[0], bucket.target[0]), max(bucket.canvas[1], bucket.target[1])
        masks = max(_MASKS, *(len(one.names) for one in self.labeller.passes))
        each, devices = most_rows(masks, largest, self.options.batch), len(self.labeller.devices)
        # No more rows than a bucket has pictures: the rest would only be filled up.
        return min(each, -(-len(bucket.indices) // devices)) * devices


def _changed(segmenter: Segmenter) -> dict[str, Any]:
    """Lists the settings that are not the method's defaults."""
    config: Any = getattr(segmenter, "config", None)
    if not dataclasses.is_dataclass(config):
        return {}
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != field.default
    }

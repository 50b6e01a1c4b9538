"""Referring expressions: one mask for each object that people described, oIoU and mIoU.

How an object's sentences become a mask depends on the method:

- CaR takes all at once, each against the background texts; those that survive are averaged by
  score and cut at one half (`methods.car_refer`), as published;
- others take all at once against CaR's background texts, and the object is every pixel that one of
  its sentences wins.

The loop keeps its counts in the same log as `evaluate`: a killed run goes on where it stopped, and
several processes share the objects.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import jax
import numpy as np

from openseg_jax import api
from openseg_jax.errors import expected
from openseg_jax.eval.benchmarks import Benchmark
from openseg_jax.eval.confusion import confusion_matrix
from openseg_jax.eval.hosts import share
from openseg_jax.eval.record import Log, state_of, total
from openseg_jax.eval.result import ReferringResult, ReferringRow
from openseg_jax.inputs.images import RESIZE_RULE
from openseg_jax.inputs.referring_set import Referring
from openseg_jax.methods.base import Segmenter
from openseg_jax.methods.car_config import BACKGROUND
from openseg_jax.methods.car_refer import clean_sentence, refer
from openseg_jax.types import Bool, UInt8

if TYPE_CHECKING:
    from openseg_jax.eval.report_html import Picture

__all__ = ["Objects", "ReferringEvaluator", "find_object", "row_of"]

_AHEAD = 2  # objects that are read while one is segmented


class Objects(Protocol):
    """What is evaluated: `inputs.referring_set.ReferringSet`, or the like."""

    name: str
    items: Sequence[Any]
    facts: Any

    def __len__(self) -> int:
        """Returns how many objects there are."""
        ...

    def read(self, index: int) -> Referring:
        """Reads an object with its picture."""
        ...


def find_object(
    segmenter: Segmenter,
    image: UInt8[np.ndarray, "H W 3"],
    sentences: Sequence[str],
    *,
    max_side: int = api.MAX_SIDE,
) -> Bool[np.ndarray, "H W"]:
    """Finds the object that sentences describe, by the module's rule.

    Args:
        segmenter: CaR needs the settings of `car_refer.referring`.
        image: RGB.
        sentences: about one object; cleaned as the data sets' loader does, equal ones count once.
        max_side: longer sides are reduced to this by methods other than CaR.
    Returns:
        the mask; empty where nothing is left of the sentences.
    """
    cleaned = [text for text in dict.fromkeys(map(clean_sentence, sentences)) if text]
    if not cleaned:
        return np.zeros(image.shape[:2], bool)
    if _is_car(segmenter):
        car: Any = segmenter
        return refer(car, image, cleaned)[0]
    (found,) = api.segment_batch(
        segmenter, [image], cleaned, background=BACKGROUND, max_side=max_side
    )
    return found.label_map > 0


def _is_car(segmenter: Any) -> bool:
    return hasattr(getattr(segmenter, "config", None), "competition")


class ReferringEvaluator:
    """A method on a set of referring expressions, ready to run.

    Args:
        segmenter: the method on its weights, with the settings of `rules.settings_for`.
        bench: the benchmark. source: its objects.
        method, model: their names.
        max_side: of methods other than CaR, see `find_object`.
        parity: "reference" leaves pixels that two outlines of an object cover out of it.

    Raises:
        UserError: when CaR's settings are not those of referring mode.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        bench: Benchmark,
        source: Objects,
        *,
        method: str,
        model: str,
        max_side: int = api.MAX_SIDE,
        parity: str | None = None,
    ) -> None:
        self.segmenter, self.bench, self.source = segmenter, bench, source
        self.method, self.model, self.max_side, self.parity = method, model, max_side, parity
        config: Any = getattr(segmenter, "config", None)
        if _is_car(segmenter) and config.competition != "alone":
            raise expected(
                "competition", "'alone', CaR's referring mode", repr(config.competition),
                "use the preset refcoco, or the settings of car_refer.referring",
            )  # fmt: skip

    def run(
        self,
        *,
        limit: int | None = None,
        workdir: str | os.PathLike[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> ReferringResult:
        """Evaluates.

        Args:
            limit: only the first so many objects; None takes all.
            workdir: folder of the log that a killed run goes on from; None keeps none.
            progress: called with (objects done, objects in all) of this process.
        Returns:
            the overlaps found by all processes, the same in each.
        Raises:
            UserError: for an empty set, a damaged file, a full disk; what is counted stays counted.
        """
        start = time.perf_counter()
        if limit is not None and limit < 1:
            raise expected("--limit", "at least 1 object", str(limit), "leave it out to take all")
        count = min(limit or len(self.source), len(self.source))
        if not count:
            raise expected("source", "referred objects", "none", "prepare the data set again")
        names = [self.source.items[i].name for i in range(count)]
        mine = list(share(count))
        facts = self.describe()
        decides = facts | {
            "objects": state_of(self.source.items),
            "settings": api.provenance(self.segmenter)["settings"],
        }
        log = Log(workdir, decides, jax.process_index())
        seconds = {"segment": 0.0, "metrics": 0.0, "input": 0.0}
        try:
            wanted = [i for i in mine if names[i] not in log.found]
            resumed = done = len(mine) - len(wanted)
            tell = progress or (lambda done, count: None)
            tell(done, len(mine))
            for one in self._read(wanted, seconds):
                self._count(one, log, seconds)
                done += 1
                tell(done, len(mine))
            cells = log.exchange([names[i] for i in mine])
        finally:
            log.close()
        facts |= {"objects": f"{count} of {len(self.source)}", "resumed": resumed}
        return ReferringResult(
            benchmark=self.bench.name,
            method=self.method,
            model=self.model,
            rows=tuple(
                row_of(name, self.source.items[i].texts, cells[name])
                for i, name in enumerate(names)
            ),
            provenance=facts,
            timings={"total": time.perf_counter() - start, **seconds},
        )

    def _read(self, indices: Sequence[int], seconds: dict[str, float]) -> Iterator[Referring]:
        """Reads objects ahead of their turn."""
        with ThreadPoolExecutor(1) as reader:
            waiting: list[Future[Referring]] = []
            ahead = iter(indices)
            try:
                for _ in indices:
                    while len(waiting) < _AHEAD and (index := next(ahead, None)) is not None:
                        waiting.append(reader.submit(self.source.read, index))
                    begin = time.perf_counter()
                    one = waiting.pop(0).result()
                    seconds["input"] += time.perf_counter() - begin
                    yield one
            finally:
                for job in waiting:
                    job.cancel()

    def _count(self, one: Referring, log: Log, seconds: dict[str, float]) -> None:
        begin = time.perf_counter()
        found = self._find(one)
        middle = time.perf_counter()
        pair = (self._truth(one).astype(np.int64), found.astype(np.int64))
        log.add(one.name, confusion_matrix(*pair, 2, ignore=None))
        seconds["segment"] += middle - begin
        seconds["metrics"] += time.perf_counter() - middle

    def _find(self, one: Referring) -> Bool[np.ndarray, "H W"]:
        return find_object(self.segmenter, one.image, one.texts, max_side=self.max_side)

    def _truth(self, one: Referring) -> Bool[np.ndarray, "H W"]:
        # The reference takes polygons that cover a pixel twice for another object.
        if self.parity == "reference" and one.twice is not None:
            return one.mask & ~one.twice
        return one.mask

    def look(self, names: Sequence[str]) -> dict[str, Picture]:
        """Segments some objects again, for a report.

        Args:
            names: of objects in the data set.
        """
        from openseg_jax.eval.report_html import Picture

        chosen = set(names)
        wanted = [i for i, item in enumerate(self.source.items) if item.name in chosen]
        found = {}
        for one in self._read(wanted, {"input": 0.0}):
            truth, mask = self._truth(one), self._find(one)
            found[one.name] = Picture(one.image, truth.astype(np.int32), mask.astype(np.int32))
        return found

    def describe(self) -> dict[str, Any]:
        """Says everything that the numbers depend on, in the order it is read."""
        made = api.provenance(self.segmenter)
        car = _is_car(self.segmenter)
        names = "\n".join(f"{item.name} {item.texts}" for item in self.source.items)
        rule = (
            "all sentences of an object at once, survivors averaged by score and cut at one half"
            if car
            else f"pixels that a sentence wins against {len(BACKGROUND)} background texts"
        )
        twice = "left out" if self.parity == "reference" else "part of the object"
        return {
            "benchmark": self.bench.name,
            "weights": made["models"],
            "data": {"name": self.source.name, **dict(self.source.facts)},
            "expressions_sha": hashlib.sha256(names.encode()).hexdigest()[:12],
            "resize_rule": "none" if car else f"{RESIZE_RULE} {self.max_side}",
            "rule": rule,
            "truth": f"pixels that two outlines of an object cover are {twice}",
            "method": self.method,
            "dtype": str(getattr(self.segmenter, "dtype", "float32")),
            "versions": {"openseg_jax": made["openseg_jax"], "jax": made["jax"]},
            "device": made["device"],
        }


def row_of(name: str, texts: Sequence[str], cells: Any) -> ReferringRow:
    """Makes an object's row of the cells (`record.to_cells`) of its 2×2 matrix: outside, inside."""
    counts = total([cells], 2)
    inside = int(counts[1, 1])
    return ReferringRow(name, tuple(texts), inside, int(counts.sum() - counts[0, 0]))

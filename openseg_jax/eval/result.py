"""What an evaluation found: counts and nothing derived, so that any metric can be made from it.

`Result` is about label maps, `ReferringResult` about one mask for each expression. Both go to JSON
and back exactly: integers stay integers, finite floats keep every bit, others become null.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from openseg_jax.errors import UserError, check_shape, expected
from openseg_jax.eval.confusion import Metrics, SplitMetrics, metrics, split_metrics
from openseg_jax.types import Bool, Int

FORMAT = "openseg_jax.result/1"
# Shares of the overlap at which a referred object counts as found (CaR's evaluation).
FOUND_AT = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclasses.dataclass(frozen=True)
class ImageRow:
    """One picture of an evaluation.

    Attributes:
        name: its key in the data set.
        miou: mean IoU over the classes in its own truth, fraction in [0, 1]; NaN where its truth
            is ignored everywhere.
        pixels: that were counted.
    """

    name: str
    miou: float
    pixels: int


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """The counts of one method on one benchmark.

    Attributes:
        benchmark, method, model: what was evaluated, by the names the command line takes.
        classes: one name a row of the matrix.
        matrix: int64[C C], pixels by (true class, predicted class).
        background: class 0 is the background.
        unseen: Bool[C], classes whose masks training never showed; None without a split.
        rows: one a picture, in the data set's order.
        provenance: what the number depends on, in the order it is printed; any JSON values.
        timings: seconds, e.g. total, device, metrics, input.
        missed: int64[C] or None: pixels of each true class that the method gave to no class of
            the benchmark, e.g. to a background that the benchmark lacks. They count as misses.
    """

    benchmark: str
    method: str
    model: str
    classes: tuple[str, ...]
    matrix: Int[np.ndarray, "C C"]
    background: bool
    unseen: Bool[np.ndarray, "C"] | None
    rows: tuple[ImageRow, ...]
    provenance: Mapping[str, Any]
    timings: Mapping[str, float]
    missed: Int[np.ndarray, "C"] | None = None

    def __post_init__(self) -> None:
        count = str(len(self.classes))
        fix = "give one row and one column for each class"
        matrix = np.asarray(self.matrix)
        check_shape(matrix, f"{count} {count}", "matrix", fix=fix)
        _set(self, "matrix", matrix.astype(np.int64))
        if self.unseen is not None:
            unseen = np.asarray(self.unseen, bool)
            check_shape(unseen, count, "unseen", fix="give one flag for each class")
            _set(self, "unseen", unseen)
        if self.missed is not None:
            missed = np.asarray(self.missed).astype(np.int64)
            check_shape(missed, count, "missed", fix="give one count for each class")
            _set(self, "missed", missed)

    def metrics(self, *, forget_missed: bool = False) -> Metrics:
        """Computes every metric.

        Args:
            forget_missed: do not count the pixels of `missed` at all, as CaR's published numbers
                without background do. They flatter a method that predicts background.
        """
        return metrics(**self._counts(forget_missed))

    def split_metrics(self, convention: str = "gt") -> SplitMetrics | None:
        """Computes seen, unseen and harmonic mean IoU; None without a split."""
        if self.unseen is None:
            return None
        counts = self._counts(False)
        return split_metrics(counts.pop("matrix"), self.unseen, convention, **counts)

    def _counts(self, forget_missed: bool) -> dict[str, Any]:
        if self.missed is None:
            return {"matrix": self.matrix}
        # What was missed is a column of its own, of a class that no pixel truly has.
        wide = np.zeros((len(self.classes) + 1,) * 2, np.int64)
        wide[1:, 1:], wide[1:, 0] = self.matrix, self.missed
        return {
            "matrix": wide,
            "ignore_background": True,
            "ignore_bg_drops_col": forget_missed,
        }

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values; of the matrix only what is not zero."""
        true, predicted = np.nonzero(self.matrix)
        return {
            **_head(self, "semantic"),
            "classes": list(self.classes),
            "background": self.background,
            "unseen": None if self.unseen is None else self.unseen.tolist(),
            "matrix": {
                "true": true.tolist(),
                "predicted": predicted.tolist(),
                "pixels": self.matrix[true, predicted].tolist(),
            },
            "missed": None if self.missed is None else self.missed.tolist(),
            "rows": [[row.name, _to_null(row.miou), row.pixels] for row in self.rows],
            **_tail(self),
        }

    @classmethod
    def from_json(cls, read: Mapping[str, Any]) -> Result:
        """Rebuilds what `to_json` returned; other keys are ignored.

        Raises:
            UserError: when it is not such a mapping.
        """
        _check_format(read, "semantic")
        with _Reading():
            count = len(read["classes"])
            matrix = np.zeros((count, count), np.int64)
            cells = read["matrix"]
            matrix[cells["true"], cells["predicted"]] = cells["pixels"]
            return cls(
                matrix=matrix,
                classes=tuple(read["classes"]),
                background=bool(read["background"]),
                unseen=None if read["unseen"] is None else np.asarray(read["unseen"], bool),
                missed=None if read["missed"] is None else np.asarray(read["missed"], np.int64),
                rows=tuple(ImageRow(n, _from_null(m), int(p)) for n, m, p in read["rows"]),
                **_common(read),
            )


@dataclasses.dataclass(frozen=True)
class ReferringRow:
    """One referred object.

    Attributes:
        name: its key in the data set.
        texts: the expressions that were segmented together.
        intersection, union: pixels of the predicted and the true mask.
    """

    name: str
    texts: tuple[str, ...]
    intersection: int
    union: int

    @property
    def iou(self) -> float:
        """Intersection over union, fraction in [0, 1]; 0 where both masks are empty."""
        return self.intersection / self.union if self.union else 0.0


@dataclasses.dataclass(frozen=True)
class ReferringMetrics:
    """What referred objects' overlaps say; fractions in [0, 1], NaN without objects.

    Attributes:
        oiou: intersections over unions, each summed over the set: large objects weigh more.
        miou: mean IoU over the objects.
        found: least IoU -> share of the objects that reach it.
    """

    oiou: float
    miou: float
    found: dict[float, float]


@dataclasses.dataclass(frozen=True)
class ReferringResult:
    """The overlaps of one method on one benchmark of referring expressions.

    Attributes:
        benchmark, method, model, provenance, timings: as in `Result`.
        rows: one a referred object, in the data set's order.
    """

    benchmark: str
    method: str
    model: str
    rows: tuple[ReferringRow, ...]
    provenance: Mapping[str, Any]
    timings: Mapping[str, float]

    def metrics(self) -> ReferringMetrics:
        """Computes oIoU, mIoU and the shares of objects found.

        Source: car.md §9: an empty union counts 0, and the shares take "at least".
        """
        ious = np.array([row.iou for row in self.rows], np.float64)
        if not ious.size:
            nan = float("nan")
            return ReferringMetrics(nan, nan, {least: nan for least in FOUND_AT})
        both = sum(row.intersection for row in self.rows)
        either = sum(row.union for row in self.rows)
        return ReferringMetrics(
            oiou=both / either if either else 0.0,
            miou=float(ious.mean()),
            found={least: float((ious >= least).mean()) for least in FOUND_AT},
        )

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            **_head(self, "referring"),
            "rows": [[r.name, list(r.texts), r.intersection, r.union] for r in self.rows],
            **_tail(self),
        }

    @classmethod
    def from_json(cls, read: Mapping[str, Any]) -> ReferringResult:
        """Rebuilds what `to_json` returned; other keys are ignored.

        Raises:
            UserError: when it is not such a mapping.
        """
        _check_format(read, "referring")
        with _Reading():
            rows = (ReferringRow(n, tuple(t), int(i), int(u)) for n, t, i, u in read["rows"])
            return cls(rows=tuple(rows), **_common(read))


def result_from_json(read: Mapping[str, Any]) -> Result | ReferringResult:
    """Rebuilds a result of either kind.

    Raises:
        UserError: when it is neither.
    """
    task = read.get("task") if isinstance(read, Mapping) else None
    return (ReferringResult if task == "referring" else Result).from_json(read)


class _Reading:
    """Turns what a broken file makes Python say into a message for people."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyError | TypeError | ValueError | IndexError) and not isinstance(
            error, UserError
        ):
            raise UserError(
                f"result: expected what an evaluation wrote, got {type(error).__name__}: {error}; "
                f"evaluate again"
            ) from error


def _check_format(read: Any, task: str) -> None:
    got = (read.get("format"), read.get("task")) if isinstance(read, Mapping) else type(read)
    if got != (FORMAT, task):
        raise expected("result", f"a {task} result of format {FORMAT}", str(got), "evaluate again")


# What results of both kinds hold, around what each has of its own.
_NAMES = ("benchmark", "method", "model")


def _head(result: Result | ReferringResult, task: str) -> dict[str, Any]:
    return {"format": FORMAT, "task": task, **{name: getattr(result, name) for name in _NAMES}}


def _tail(result: Result | ReferringResult) -> dict[str, Any]:
    return {
        "provenance": _plain(result.provenance),
        "timings": {name: _to_null(value) for name, value in result.timings.items()},
    }


def _common(read: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: str(read[name]) for name in _NAMES},
        "provenance": dict(read["provenance"]),
        "timings": {name: _from_null(value) for name, value in read["timings"].items()},
    }


def _set(owner: Any, name: str, value: Any) -> None:
    object.__setattr__(owner, name, value)


def _to_null(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _from_null(value: float | None) -> float:
    return float("nan") if value is None else value


def _plain(value: Any) -> Any:
    """Makes JSON of NumPy's numbers, tuples and mappings."""
    rules: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
        (Mapping, lambda x: {str(k): _plain(v) for k, v in x.items()}),
        ((list, tuple), lambda x: [_plain(v) for v in x]),
        (np.ndarray, lambda x: _plain(x.tolist())),
        (np.generic, lambda x: _plain(x.item())),
        (float, _to_null),
        ((str, int, bool, type(None)), lambda x: x),
    )
    return next((make(value) for kind, make in rules if isinstance(value, kind)), str(value))

"""Exact confusion matrices, and the three conventions of mIoU that the field mixes up.

The same predictions of one published model score 12.9, 15.6 or 11.7 on PC-459 depending on which
classes the mean runs over, so a mean is never reported here without the name of its convention:

| convention | mean over | who uses it |
|---|---|---|
| "gt" | classes with a pixel in the ground truth | CaR, FC-CLIP, SAN's logs; our default |
| "union" | classes in the ground truth or predicted | detectron2 0.6, mmsegmentation |
| "all" | every class of the vocabulary, absent ones count 0 | older tables |

"union" depends on stray predictions, so it cannot rank models; it is printed for comparison.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from openseg_jax.errors import UserError, check_shape, expected, unknown_name
from openseg_jax.types import Bool, Float, Int

CONVENTIONS = ("gt", "union", "all")
OUTSIDE = ("error", "ignore")


def confusion_matrix(
    truth: Int[np.ndarray, "H W"],
    predicted: Int[np.ndarray, "H W"],
    num_classes: int,
    *,
    ignore: int | None = 255,
    outside: str = "error",
) -> Int[np.ndarray, "C C"]:
    """Counts pixels by (true class, predicted class); matrices of several pictures add up.

    Args:
        truth: class ids in [0, C) or `ignore`; any shape.
        predicted: class ids in [0, C), same shape. Pixels whose truth is ignored may hold anything.
        num_classes: C, background included where there is one.
        ignore: the id of pixels that are not counted, or None.
        outside: what other ids of the truth mean: "error", or "ignore" as in the reference.
    Returns:
        int64[C C], rows are the truth. Exact: no floating point is involved.
    Raises:
        UserError: on different shapes, or ids outside the vocabulary.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise expected(
            "predicted",
            f"the shape of the truth {truth.shape}",
            str(predicted.shape),
            "bring the prediction to the size of the ground truth first",
        )
    if outside not in OUTSIDE:
        unknown_name(outside, OUTSIDE, "outside")
    size = num_classes
    skipped = np.zeros(truth.shape, bool) if ignore is None else truth == ignore
    if outside == "ignore":
        skipped |= (truth < 0) | (truth >= size)
    # One bin more than there are cells takes what is not counted: cheaper than picking pixels out.
    rows = np.where(skipped, 0, truth)
    if rows.size and not 0 <= rows.min() <= rows.max() < size:
        _refuse("truth", rows[(rows < 0) | (rows >= size)], size)
    columns = predicted
    if columns.size and not 0 <= columns.min() <= columns.max() < size:
        columns = np.where(skipped, 0, columns)
        _refuse("predicted", columns[(columns < 0) | (columns >= size)], size)
    cells = rows.astype(np.intp) * size
    cells += columns.astype(np.intp)
    cells[skipped] = size * size
    counts = np.bincount(cells.ravel(), minlength=size * size + 1)
    return counts[:-1].reshape(size, size).astype(np.int64, copy=False)


def _refuse(name: str, strays: Int[np.ndarray, "n"], num_classes: int) -> None:
    if strays.size:
        raise UserError(
            f"{name}: expected class ids in [0, {num_classes}), got {int(strays.flat[0])} at "
            f"{strays.size} pixels; check the vocabulary and the id that marks ignored pixels"
        )


@dataclasses.dataclass(frozen=True)
class Metrics:
    """What a confusion matrix says. All numbers are fractions in [0, 1], NaN where undefined.

    Attributes:
        iou: Float[C], intersection over union of each class; NaN where the class neither occurs
            nor is predicted.
        truth: Int[C], pixels of each class in the ground truth.
        predicted: Int[C], pixels predicted as each class.
        miou: convention -> mean IoU.
        pixel_accuracy: correct pixels over counted pixels.
        mean_accuracy: mean recall over the classes in the ground truth.
        fwiou: IoU weighted by the classes' share of the ground truth.
    """

    iou: Float[np.ndarray, "C"]
    truth: Int[np.ndarray, "C"]
    predicted: Int[np.ndarray, "C"]
    miou: dict[str, float]
    pixel_accuracy: float
    mean_accuracy: float
    fwiou: float


def metrics(
    matrix: Int[np.ndarray, "C C"],
    *,
    ignore_background: bool = False,
    ignore_bg_drops_col: bool = False,
) -> Metrics:
    """Computes every metric of a confusion matrix.

    Args:
        matrix: counts, rows are the truth.
        ignore_background: leave class 0 out: its true pixels are not counted and it gets no IoU.
            The result is then about classes 1.. only (C - 1 of them).
        ignore_bg_drops_col: with `ignore_background`, also forget pixels of other classes that were
            predicted as background, as the reference does. They then are no misses, which flatters
            every method that predicts background; say so when quoting such a number.
    Returns:
        the metrics.
    Raises:
        UserError: when the matrix is not square.
    Source:
        CaR's evaluation; `ignore_bg_drops_col=True` is its published behaviour (VOC-20, PC-59).
    """
    matrix = np.asarray(matrix)
    check_shape(matrix, "C C", "matrix")
    check_shape(
        matrix, f"{len(matrix)} {len(matrix)}", "matrix", fix="rows and columns are classes"
    )
    hit, truth, predicted = _counts(matrix, ignore_background, ignore_bg_drops_col)
    union = truth + predicted - hit
    iou = _ratio(hit, union)
    return Metrics(
        iou=iou,
        truth=truth,
        predicted=predicted,
        miou={name: _mean(iou, _members(name, truth, union)) for name in CONVENTIONS},
        pixel_accuracy=float(_ratio(hit.sum(), truth.sum())),
        mean_accuracy=_mean(_ratio(hit, truth), truth > 0),
        fwiou=float(_ratio(np.nansum(iou * truth), truth.sum())),
    )


def miou(matrix: Int[np.ndarray, "C C"], convention: str = "gt", **flags: bool) -> float:
    """Computes the mean IoU under one named convention.

    Args:
        matrix: counts, rows are the truth.
        convention: one of `CONVENTIONS`.
        **flags: as for `metrics`.
    Returns:
        fraction in [0, 1]; NaN when the mean runs over no class.
    Raises:
        UserError: on an unknown convention.
    """
    if convention not in CONVENTIONS:
        unknown_name(convention, CONVENTIONS, "mIoU convention")
    return metrics(matrix, **flags).miou[convention]


@dataclasses.dataclass(frozen=True)
class SplitMetrics:
    """What a confusion matrix says of seen and unseen classes apart; fractions, NaN if undefined.

    Attributes:
        seen, unseen: mean IoU over the classes of each side. Every pixel counts: a seen pixel
            taken for an unseen class lowers both.
        harmonic: 2·seen·unseen/(seen + unseen), "hIoU".
        seen_accuracy, unseen_accuracy: correct pixels over the counted pixels of each side.
    """

    seen: float
    unseen: float
    harmonic: float
    seen_accuracy: float
    unseen_accuracy: float


def split_metrics(
    matrix: Int[np.ndarray, "C C"],
    unseen: Bool[np.ndarray, "C"],
    convention: str = "gt",
    *,
    parity: str | None = None,
    ignore_background: bool = False,
    ignore_bg_drops_col: bool = False,
) -> SplitMetrics:
    """Computes the generalised zero-shot metrics: seen, unseen and their harmonic mean.

    Args:
        matrix: counts, rows are the truth.
        unseen: True for classes whose masks training never showed.
        convention: one of `CONVENTIONS`.
        parity: "reference" with "all" makes a side NaN where one of its classes is in no ground
            truth, as one of MAFT's evaluators does; None counts such a class as 0.
        ignore_background, ignore_bg_drops_col: as for `metrics`; with the first, `unseen` has one
            flag less than the matrix has rows.
    Returns:
        the metrics.
    Raises:
        UserError: on an unknown convention, or a split of another length.
    Source:
        maft.md §7: "union" is its generalised evaluator, "all" that of `val_extra_classes`.
    """
    if convention not in CONVENTIONS:
        unknown_name(convention, CONVENTIONS, "mIoU convention")
    flags = (ignore_background, ignore_bg_drops_col)
    found = metrics(matrix, ignore_background=flags[0], ignore_bg_drops_col=flags[1])
    unseen, hit = np.asarray(unseen, bool), _counts(np.asarray(matrix), *flags)[0]
    check_shape(unseen, str(len(found.iou)), "unseen", fix="give one flag for each class")
    members = _members(convention, found.truth, found.truth + found.predicted - hit)
    poisoned = parity == "reference" and convention == "all"

    def side(of: Bool[np.ndarray, "C"]) -> tuple[float, float]:
        absent = poisoned and bool((found.truth[of] == 0).any())
        mean = float("nan") if absent else _mean(found.iou, members & of)
        return mean, float(_ratio(hit[of].sum(), found.truth[of].sum()))

    (s, s_accuracy), (u, u_accuracy) = side(~unseen), side(unseen)
    both = 0.0 if s + u == 0 else 2 * s * u / (s + u)
    return SplitMetrics(s, u, both, s_accuracy, u_accuracy)


def _counts(matrix: Int[np.ndarray, "C C"], ignore_background: bool, drops_column: bool):
    """Returns the pixels of each class that are right, true and predicted."""
    matrix = matrix.astype(np.int64)
    if ignore_background:
        matrix = matrix[1:, 1:] if drops_column else matrix[1:]
    first = matrix.shape[1] - matrix.shape[0]
    return np.diagonal(matrix, first), matrix.sum(1), matrix.sum(0)[first:]


def _members(convention: str, truth: Int[np.ndarray, "C"], union: Int[np.ndarray, "C"]):
    return {"gt": truth > 0, "union": union > 0, "all": np.ones_like(truth, bool)}[convention]


def _ratio(top: np.ndarray | int, bottom: np.ndarray | int) -> np.ndarray:
    top, bottom = np.asarray(top, np.float64), np.asarray(bottom, np.float64)
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > 0)


def _mean(values: Float[np.ndarray, "C"], members: Bool[np.ndarray, "C"]) -> float:
    chosen = np.nan_to_num(values[members])
    return float(chosen.mean()) if chosen.size else float("nan")

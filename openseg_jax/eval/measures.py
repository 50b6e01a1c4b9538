"""What results say as numbers: every metric by name, what the names mean, what was best and worst.

Tables, pages and JSON of a report take them from here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from openseg_jax.errors import expected
from openseg_jax.eval.confusion import CONVENTIONS
from openseg_jax.eval.result import ReferringResult, Result

__all__ = [
    "FORGOTTEN", "MEANS", "AnyResult", "groups", "label", "measured", "percent", "ranked",
]  # fmt: skip

AnyResult = Result | ReferringResult

# What the conventions average over; a label alone would have to be looked up.
MEANS = {
    "gt": "mean over the classes with a pixel in the ground truth; ours unless said otherwise",
    "union": "mean over the classes in the ground truth or predicted anywhere; falls with stray "
    "predictions, so it cannot rank",
    "all": "mean over every class of the vocabulary; absent classes count 0",
}
FORGOTTEN = "miou_gt_forgotten"
_LABELS = {
    **{f"miou_{c}": f"mIoU ({c})" for c in CONVENTIONS},
    FORGOTTEN: "mIoU (gt, missed forgotten)",
    **{
        f"{side}_{c}": f"{side} ({c})"
        for c in CONVENTIONS
        for side in ("seen", "unseen", "harmonic")
    },
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "class accuracy",
    "fwiou": "fwIoU",
    "oiou": "oIoU",
    "miou": "mIoU",
}


def groups(results: Sequence[AnyResult]) -> list[list[int]]:
    """Groups results of one benchmark and one list of classes: indices, in the order given.

    Raises:
        UserError: when there is no result.
    """
    if not results:
        raise expected("results", "at least one result", "none", "evaluate something first")
    found: dict[Any, list[int]] = {}
    for index, result in enumerate(results):
        classes = result.classes if isinstance(result, Result) else None
        found.setdefault((result.benchmark, classes), []).append(index)
    return list(found.values())


def measured(result: AnyResult) -> dict[str, float]:
    """Computes all metrics of a result: name -> fraction in [0, 1], NaN where undefined."""
    if isinstance(result, ReferringResult):
        found = result.metrics()
        shares = {f"found_{least}": share for least, share in found.found.items()}
        return {"oiou": found.oiou, "miou": found.miou, **shares}
    found = result.metrics()
    out = {f"miou_{c}": value for c, value in found.miou.items()}
    if result.missed is not None and result.missed.any():
        out[FORGOTTEN] = result.metrics(forget_missed=True).miou["gt"]
    for convention in CONVENTIONS:
        sides = result.split_metrics(convention)
        if sides is not None:
            out |= {
                f"seen_{convention}": sides.seen,
                f"unseen_{convention}": sides.unseen,
                f"harmonic_{convention}": sides.harmonic,
            }
    out |= {
        "pixel_accuracy": found.pixel_accuracy,
        "mean_accuracy": found.mean_accuracy,
        "fwiou": found.fwiou,
    }
    return out


def label(metric: str) -> str:
    """Returns how tables print the name of a metric."""
    return _LABELS.get(metric) or metric.replace("found_", "P@")


def percent(value: float | None) -> float | None:
    """Makes percent of a fraction, None of what is undefined."""
    return None if value is None or math.isnan(value) else 100 * value


def ranked(result: AnyResult, most: int) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """Returns the worst and the best pictures (objects) as (name, IoU fraction), without overlap.

    Args:
        result: of a method; pictures whose IoU is undefined are left out.
        most: of each kind.
    """
    if isinstance(result, ReferringResult):
        pairs = [(row.name, row.iou) for row in result.rows]
    else:
        pairs = [(row.name, row.miou) for row in result.rows if not math.isnan(row.miou)]
    order = sorted(pairs, key=lambda pair: pair[1])
    worst = order[: min(most, (len(order) + 1) // 2)]
    best = order[len(worst) :][::-1][:most]
    return worst, best

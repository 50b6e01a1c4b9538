"""Of boxes that cover each other, keep the best: greedy non-maximum suppression, on the host."""

from __future__ import annotations

import numpy as np

from openseg_jax.types import Float, Int

__all__ = ["box_nms"]


def box_nms(
    boxes: Float[np.ndarray, "N 4"], scores: Float[np.ndarray, "N"], threshold: float
) -> Int[np.ndarray, "K"]:
    """Drops every box whose IoU with a better kept one is above the threshold.

    Args:
        boxes: (x0, y0, x1, y1); the area is (x1 − x0)(y1 − y0), also where x1 and y1 are the last
            pixels inside, as published.
        scores: higher is better; of equal ones the first wins.
        threshold: strictly above it counts.

    Returns:
        Which boxes are kept, best first.

    Source: torchvision's `nms`. Two boxes without area never suppress each other.
    """
    boxes = np.asarray(boxes, np.float32)
    order = np.argsort(-np.asarray(scores, np.float32), kind="stable")
    low, high = boxes[order, :2], boxes[order, 2:]
    area = (high - low).prod(axis=1)
    alive, kept = np.ones(len(order), bool), []
    for i in range(len(order)):
        if not alive[i]:
            continue
        kept.append(i)
        rest = slice(i + 1, None)
        sides = np.minimum(high[rest], high[i]) - np.maximum(low[rest], low[i])
        both = np.maximum(sides, 0).prod(axis=1)
        either = area[i] + area[rest] - both
        # Without a division: 0 > 0 is false where both are without area.
        alive[rest] &= ~(both > np.float32(threshold) * either)
    return order[np.asarray(kept, np.intp)]

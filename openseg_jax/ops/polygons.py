"""Filling polygons pixel for pixel as the COCO API does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from openseg_jax.errors import expected
from openseg_jax.types import Bool, Float, Int

__all__ = ["fill_polygon"]

_SCALE = 5.0  # COCO walks along the outline on a grid five times as fine


def fill_polygon(
    points: Sequence[float] | Float[np.ndarray, " n"], size: tuple[int, int]
) -> Bool[np.ndarray, "H W"]:
    """Fills a polygon; what lies outside of the image is cut off.

    Args:
        points: x0, y0, x1, y1, … in pixels, at least three corners; (0, 0) is the upper left
            corner of the first pixel, and the last corner joins the first.
        size: (H, W).

    Returns:
        The mask; where a polygon covers itself twice, it is empty.

    Raises:
        UserError: for fewer than three corners, or coordinates that are no numbers.

    Source: the COCO API's encoding of polygons (`rleFrPoly`): an outline on a grid of fifths of a
        pixel, one crossing wherever it enters another column of that grid, and runs between them.
        It takes the same pixels, with its truncation toward zero.
    """
    height, width = size
    try:
        corners = np.asarray(points, np.float64)
    except (TypeError, ValueError):
        corners = np.full(1, np.nan)
    if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2 or not _usable(corners):
        raise expected(
            "polygon", "x0, y0, x1, y1, … of three corners or more", repr(points)[:60],
            "the annotation is damaged; get the file again",
        )  # fmt: skip
    column, line = _outline(np.trunc(_SCALE * corners + 0.5).astype(np.int64).reshape(-1, 2))
    moved = column[1:] != column[:-1]
    step = np.where(column[1:] < column[:-1], column[1:], column[1:] - 1)[moved]
    x = (step + 0.5) / _SCALE - 0.5
    y = (np.minimum(line[1:], line[:-1])[moved] + 0.5) / _SCALE - 0.5
    inside = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
    x = x[inside].astype(np.int64)
    y = np.ceil(np.clip(y[inside], 0, height)).astype(np.int64)
    # Each crossing turns "outside" to "inside" and back, down the columns.
    ends = np.concatenate([[0], np.sort(x * height + y), [height * width]])
    runs = np.repeat(np.arange(len(ends) - 1) % 2 == 1, np.diff(ends))
    return runs.reshape(width, height).T


def _usable(corners: Float[np.ndarray, " n"]) -> bool:
    # Beyond this a walk along the outline would take more memory than any picture.
    return bool(np.all(np.isfinite(corners)) and np.all(np.abs(corners) < 1e5))


def _outline(
    corners: Int[np.ndarray, "n 2"],
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Lists the points of all sides in order: columns and lines of the fine grid."""
    start, end = corners, np.roll(corners, -1, axis=0)
    reach = np.abs(end - start)
    wide = reach[:, 0] >= reach[:, 1]
    long = np.where(wide, 0, 1)
    rows = np.arange(len(start))
    # Sides are computed from their lower end, and then walked in the polygon's direction.
    flip = start[rows, long] > end[rows, long]
    low, high = np.where(flip[:, None], end, start), np.where(flip[:, None], start, end)
    count = reach[rows, long]
    slope = (high - low)[rows, 1 - long] / np.maximum(count, 1)
    side = np.repeat(rows, count + 1)
    place = np.arange(len(side)) - np.repeat(np.cumsum(count + 1) - count - 1, count + 1)
    place = np.where(flip[side], count[side] - place, place)
    along = low[side, long[side]] + place
    across = np.trunc(low[side, 1 - long[side]] + slope[side] * place + 0.5).astype(np.int64)
    return np.where(wide[side], along, across), np.where(wide[side], across, along)

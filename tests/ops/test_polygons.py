"""Polygons fill the pixels that the COCO API fills."""

import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.ops import rle
from openseg_jax.ops.polygons import fill_polygon

GOLDENS = Path(os.environ.get("OPENSEG_GOLDENS", Path(__file__).parents[1] / "goldens"))


def cases():
    return json.loads((GOLDENS / "coco" / "polygons.json").read_text())["cases"]


def test_golden_polygons():
    assert cases()
    for case in cases():
        mask = fill_polygon(case["polygon"], tuple(case["size"]))
        assert rle.encode(mask)["counts"] == case["counts"], case["what"]


def test_the_golden_tells_half_a_pixel():
    wrong = 0
    for case in cases():
        moved = (np.asarray(case["polygon"]) + 0.5).tolist()
        mask = fill_polygon(moved, tuple(case["size"]))
        wrong += rle.encode(mask)["counts"] != case["counts"]
    assert wrong > len(cases()) // 2


def slow_fill(points, size):
    """The same rules a corner and a pixel at a time, straight from their description."""
    height, width = size
    grid = [math.trunc(5 * p + 0.5) for p in points]
    corners = list(zip(grid[::2], grid[1::2], strict=True))
    trail = []
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        dx, dy = abs(bx - ax), abs(by - ay)
        wide = dx >= dy
        flip = (ax > bx) if wide else (ay > by)
        lx, ly, hx, hy = (bx, by, ax, ay) if flip else (ax, ay, bx, by)
        side = []
        for t in range(max(dx, dy) + 1):
            if wide:
                side.append((lx + t, math.trunc(ly + (hy - ly) / max(dx, 1) * t + 0.5)))
            else:
                side.append((math.trunc(lx + (hx - lx) / dy * t + 0.5), ly + t))
        trail += side[::-1] if flip else side
    flat = [0] * (height * width + 1)
    for (u0, v0), (u1, v1) in itertools.pairwise(trail):
        if u0 == u1:
            continue
        x = ((u1 if u1 < u0 else u1 - 1) + 0.5) / 5 - 0.5
        if x != math.floor(x) or not 0 <= x <= width - 1:
            continue
        y = math.ceil(min(max((min(v0, v1) + 0.5) / 5 - 0.5, 0), height))
        flat[int(x) * height + y] += 1
    inside, mask = False, np.zeros(height * width, bool)
    for place in range(height * width):
        inside ^= flat[place] % 2 == 1
        mask[place] = inside
    return mask.reshape(width, height).T


def test_agrees_with_a_walk_pixel_by_pixel():
    rng = np.random.default_rng(0)
    for case in range(60):
        size = tuple(int(n) for n in rng.integers(1, 25, 2))
        corners = rng.uniform(-0.4, 1.4, (int(rng.integers(3, 9)), 2)) * size[::-1]
        points = np.round(corners, case % 3).ravel().tolist()
        np.testing.assert_array_equal(fill_polygon(points, size), slow_fill(points, size))


@pytest.mark.parametrize(
    "points", [[], [1, 2, 3, 4], [0, 0, 4, 0, 4], [0, 0, 4, 0, 4, math.nan], ["x"] * 6,
               [0, 0, 4, 0, 1e300, 4], None],
)  # fmt: skip
def test_damaged_polygons_are_refused(points):
    with pytest.raises(UserError, match="three corners"):
        fill_polygon(points, (8, 8))

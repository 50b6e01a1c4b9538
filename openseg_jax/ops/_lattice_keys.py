"""Where points lie in the permutohedral lattice, and keys of its vertices packed into integers.

Everything here takes `xp`, numpy or jax.numpy, so that both builders share one definition.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from openseg_jax.errors import UserError

__all__ = ["Bounds", "axis_delta", "corner_words", "pack_plan", "simplex"]

# Smallest and largest value of each of the first d lifted coordinates.
Bounds = tuple[tuple[int, int], ...]


def simplex(e: Any, xp: ModuleType) -> tuple[Any, Any, Any]:
    """Returns the remainder-0 corner int32[d+1 n], ranks int32[d+1 n], weights float32[d+1 n]."""
    corners = e.shape[0]
    inverse = np.float32(1 / corners)
    rounded = xp.rint(e * inverse).astype(xp.int32)
    rem = rounded * corners
    residual = e - rem.astype(xp.float32)
    ranks = []
    for i in range(corners):
        # Ties: the earlier coordinate gets the smaller rank, as in the reference.
        above = [(residual[i] < residual[j]) for j in range(i + 1, corners)]
        level = [(residual[i] <= residual[j]) for j in range(i)]
        rank = xp.zeros(e.shape[1:], xp.int32)
        ranks.append(sum((t.astype(xp.int32) for t in level + above), rank))
    rank = xp.stack(ranks) + rounded.sum(axis=0, dtype=xp.int32)
    shift = xp.where(rank < 0, corners, 0) - xp.where(rank >= corners, corners, 0)
    rank, rem = rank + shift.astype(xp.int32), rem + shift.astype(xp.int32)
    offset = (e - rem.astype(xp.float32)) * inverse
    # by_rank[k] = offset of the coordinate of rank k; ranks are a permutation, so one term is left.
    by_rank = [
        sum(xp.where(rank[i] == k, offset[i], np.float32(0)) for i in range(corners))
        for k in range(corners)
    ]
    weights = [by_rank[-1] + (np.float32(1) - by_rank[0])]
    weights += [by_rank[corners - 1 - r] - by_rank[corners - r] for r in range(1, corners)]
    return rem, rank, xp.stack(weights)


def pack_plan(bounds: Bounds, corners: int, limit: int) -> list[dict[int, tuple[int, int]]]:
    """Plans mixed-radix words: for each word {coordinate: (multiplier, lowest value)}.

    Words compare lexicographically as the coordinates do. The margin covers rounding to the
    lattice (1.5 cells), the corners of a simplex (1) and the neighbours of those (1).
    """
    margin = 4 * corners
    groups: list[list[tuple[int, int, int]]] = []
    product = limit
    for c, (low, high) in enumerate(bounds):
        size = high - low + 2 * margin + 1
        if size >= limit:
            raise UserError(f"features: expected a span below {limit}, got {size}; scale them down")
        if product * size >= limit:
            groups.append([])
            product = 1
        groups[-1].append((c, low - margin, size))
        product *= size
    plan = []
    for group in groups:
        multiplier, word = 1, {}
        for c, low, size in reversed(group):
            word[c] = (multiplier, low)
            multiplier *= size
        plan.append(word)
    return plan


def corner_words(rem: Any, rank: Any, plan: Any, dtype: Any, xp: ModuleType) -> list[Any]:
    """Packs the keys of all corners: one integer array [d+1 n] for each word of the plan."""
    corners = rem.shape[0]
    words = []
    for word in plan:
        base = sum((rem[c] - low).astype(dtype) * by for c, (by, low) in word.items())
        step = sum(by for by, _ in word.values())
        rows = []
        for r in range(corners):
            wrap = sum(xp.where(rank[c] >= corners - r, by, 0) for c, (by, _) in word.items())
            rows.append(base + r * step - (wrap * corners).astype(dtype))
        words.append(xp.stack(rows))
    return words


def axis_delta(word: dict[int, tuple[int, int]], axis: int, corners: int) -> int:
    """Returns what a word gains from a vertex to its neighbour: +1 everywhere, −d on axis."""
    return sum(by * (1 - corners if c == axis else 1) for c, (by, _) in word.items())

"""The permutohedral lattice: Gaussian filtering of n points with d features in O(n d²).

A point is lifted to d+1 coordinates that sum to zero, where it lies in one simplex of the lattice.
Its value is spread over the d+1 corners (splat), the lattice is blurred by [½ 1 ½] along each of
d+1 axes, and the corners are read back with the same weights (slice). Self terms are kept.

Two builders make the same `Lattice`: `build` in NumPy, whose vertices are exactly counted, and
`build_device` in JAX, of fixed shapes, int32 only, for jit and vmap. Corners are numbered in the
lexicographic order of their keys by both. `host_filter` and `device_filter` apply either.

Source: Adams, Baek and Davis, "Fast high-dimensional filtering using the permutohedral lattice",
Eurographics 2010; signs, ties and scale as in the dense CRF of Krähenbühl and Koltun (2011).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from openseg_jax.errors import UserError, expected
from openseg_jax.ops._lattice_keys import Bounds, axis_delta, corner_words, pack_plan, simplex
from openseg_jax.types import Array, Bool, Float, Int

__all__ = [
    "Bounds",
    "Filter",
    "Lattice",
    "axis_tables",
    "build",
    "build_device",
    "device_filter",
    "elevate",
    "host_filter",
    "scale_filter",
    "table_bounds",
]

if TYPE_CHECKING:
    AnyArray = Any
else:
    AnyArray = Array | np.ndarray
# float32[n C] → float32[n C], on the host.
Filter = Callable[[np.ndarray], np.ndarray]

_HOST_LIMIT = 2**62
_DEVICE_LIMIT = 2**31 - 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lattice:
    """The tables of one lattice with room for m vertices, over n points of d features.

    Index m is "no vertex": a missing neighbour, a corner of an invalid point, or a corner that did
    not fit. Row m of a value table stays zero.

    Attributes:
        vertex: Int[d+1 n], the vertex of each corner of each point's simplex.
        weight: Float[d+1 n], its barycentric weight (0 where vertex is m).
        neighbours: Int[d+1 2 m+1], the two neighbours of each vertex along each axis.
        count: Int[], the number of vertices that there are. More than m means that a lattice with
            fixed capacity overflowed and that its output must not be used.
    """

    vertex: Int[AnyArray, "corners n"]
    weight: Float[AnyArray, "corners n"]
    neighbours: Int[AnyArray, "corners 2 slots"]
    count: Int[AnyArray, ""]

    @property
    def capacity(self) -> int:
        """The number of vertices that there is room for."""
        return self.neighbours.shape[-1] - 1


def elevate(features: Float[AnyArray, "d n"], xp: ModuleType = np) -> Any:
    """Lifts points to the d+1 lattice coordinates, so that the blur has unit standard deviation.

    Args:
        features: float32[d n], each divided by the standard deviation wanted along it.
        xp: `numpy` or `jax.numpy`.

    Returns:
        float32[d+1 n]; the coordinates of a point sum to zero.
    """
    d = features.shape[0]
    total = xp.zeros(features.shape[1:], np.float32)
    rows = []
    for j in range(d, 0, -1):
        # sqrt(2/3)(d+1) undoes the blur's variance; 1/sqrt(j(j+1)) makes the basis orthonormal.
        scale = np.float32(math.sqrt(2 / 3) * (d + 1) / math.sqrt(j * (j + 1)))
        term = features[j - 1] * scale
        rows.append(total - np.float32(j) * term)
        total = total + term
    return xp.stack([total, *rows[::-1]])


def axis_tables(values: Sequence[Float[np.ndarray, "v"]]) -> list[Float[np.ndarray, "v corners"]]:
    """Tabulates each feature's share of the lifted coordinates, for features with few values.

    Positions and bytes take few values. Summing rows of these tables from the last feature to the
    first gives `elevate` bit for bit, with additions alone: no multiply-add is left that a compiler
    could fuse and round otherwise, so host and device agree on every key.

    Args:
        values: for each of the d features its possible values, float32[v].

    Returns:
        d tables float32[v d+1].
    """
    tables = []
    for axis, points in enumerate(values):
        features = np.zeros((len(values), len(points)), np.float32)
        features[axis] = points
        tables.append(np.ascontiguousarray(elevate(features).T))
    return tables


def table_bounds(tables: Sequence[Float[np.ndarray, "v corners"]]) -> Bounds:
    """Bounds the lifted coordinates of any point made of rows of `axis_tables`."""
    low = np.sum([np.floor(t[:, :-1].min(axis=0)) for t in tables], axis=0)
    high = np.sum([np.ceil(t[:, :-1].max(axis=0)) for t in tables], axis=0)
    return tuple((int(a), int(b)) for a, b in zip(low, high, strict=True))


def build(
    elevated: Float[np.ndarray, "corners n"], *, valid: Bool[np.ndarray, "n"] | None = None
) -> Lattice:
    """Builds the lattice on the host; its capacity is its exact number of vertices.

    Args:
        elevated: float32[d+1 n] from `elevate`, n ≥ 1.
        valid: bool[n]; points where it is False take no part. None means all.

    Raises:
        UserError: if the coordinates span more than 62 bits.
    """
    corners = elevated.shape[0]
    points = elevated if valid is None else elevated[:, valid]
    if points.shape[1] == 0:
        points = np.zeros((corners, 1), np.float32)
    limits = tuple(
        (math.floor(row.min()), math.ceil(row.max())) for row in points[:-1].astype(np.float64)
    )
    plan = pack_plan(limits, corners, _HOST_LIMIT)
    if len(plan) > 1:
        raise expected(
            "features",
            "coordinates that fit 62 bits together",
            f"spans {[b - a for a, b in limits]}",
            "divide them by larger standard deviations",
        )
    rem, rank, weight = simplex(points, np)
    (keys,) = corner_words(rem, rank, plan, np.int64, np)
    unique, inverse = np.unique(keys.ravel(), return_inverse=True)
    m = len(unique)
    neighbours = np.full((corners, 2, m + 1), m, np.int32)
    for axis in range(corners):
        target = unique + axis_delta(plan[0], axis, corners)
        place = np.minimum(np.searchsorted(unique, target), m - 1)
        here = np.flatnonzero(unique[place] == target)
        # The two directions are each other's inverse, so one search serves both.
        neighbours[axis, 0, here] = place[here]
        neighbours[axis, 1, place[here]] = here
    vertex = inverse.reshape(keys.shape).astype(np.int32)
    if valid is not None:
        vertex = _spread(vertex, valid, m)
        weight = _spread(weight, valid, 0)
    return Lattice(vertex, weight, neighbours, np.asarray(m, np.int32))


def build_device(
    elevated: Float[Array, "corners n"],
    bounds: Bounds,
    *,
    valid: Bool[Array, "n"] | None = None,
    capacity: int | None = None,
) -> Lattice:
    """Builds the lattice in JAX by sorting: fixed shapes, int32, works under jit and vmap.

    Args:
        elevated: float32[d+1 n].
        bounds: static bounds of the first d coordinates, e.g. from `table_bounds`.
        valid: bool[n]; points where it is False take no part. None means all.
        capacity: static room for vertices; None is the worst case n·(d+1). Compare `count` with
            it: when there are more vertices, corners were dropped.
    """
    corners, n = elevated.shape
    m = corners * n if capacity is None else min(capacity, corners * n)
    plan = pack_plan(bounds, corners, _DEVICE_LIMIT)
    rem, rank, weight = simplex(elevated, jnp)
    words = [w.ravel() for w in corner_words(rem, rank, plan, jnp.int32, jnp)]
    if valid is not None:
        keep = jnp.broadcast_to(valid, (corners, n)).ravel()
        words = [jnp.where(keep, w, _DEVICE_LIMIT) for w in words]
    order = jnp.arange(corners * n, dtype=jnp.int32)
    *words, order = jax.lax.sort((*words, order), num_keys=len(words), is_stable=True)
    real = words[0] != _DEVICE_LIMIT
    changed = sum((w[1:] != w[:-1]).astype(jnp.int32) for w in words) > 0
    first = real & jnp.concatenate([jnp.ones(1, bool), changed])
    index = jnp.cumsum(first.astype(jnp.int32)) - 1
    count = index[-1] + 1
    index = jnp.where(real, jnp.minimum(index, m), m)
    vertex = jnp.zeros(corners * n, jnp.int32).at[order].set(index, unique_indices=True)
    vertex = vertex.reshape(corners, n)
    slot = jnp.where(first, index, m)
    unique = [jnp.full(m + 1, _DEVICE_LIMIT, jnp.int32).at[slot].set(w)[:m] for w in words]
    neighbours = _device_neighbours(unique, plan, corners)
    return Lattice(vertex, jnp.where(vertex < m, weight, 0), neighbours, count)


def device_filter(lattice: Lattice, values: Float[Array, "n C"]) -> Float[Array, "n C"]:
    """Filters values with the Gaussian of a lattice, in JAX: splat, blur, slice.

    Args:
        lattice: from either builder.
        values: float32[n C]. Invalid points neither give nor receive.
    """
    table = jnp.zeros((lattice.capacity + 1, values.shape[-1]), values.dtype)
    # Scans rather than unrolled loops: a third of the compile time, and one corner in memory.
    corner = (jnp.asarray(lattice.vertex), jnp.asarray(lattice.weight))

    def splat(table: jax.Array, part: Any) -> tuple[jax.Array, None]:
        vertex, weight = part
        return table.at[vertex].add(weight[:, None] * values), None

    def blur(table: jax.Array, pair: jax.Array) -> tuple[jax.Array, None]:
        return table + 0.5 * (table[pair[0]] + table[pair[1]]), None

    def gather(total: jax.Array, part: Any) -> tuple[jax.Array, None]:
        vertex, weight = part
        return total + weight[:, None] * table[vertex], None

    table, _ = jax.lax.scan(splat, table, corner)
    table, _ = jax.lax.scan(blur, table, jnp.asarray(lattice.neighbours))
    total, _ = jax.lax.scan(gather, jnp.zeros_like(values), corner)
    return total * np.float32(_slice_scale(len(lattice.vertex)))


@dataclasses.dataclass(frozen=True)
class _SparseFilter:
    """A lattice as sparse matrices: `slice @ blurs[d] … @ blurs[0] @ splat`."""

    splat: Any
    blurs: tuple[Any, ...]
    slice: Any

    def __call__(self, values: Float[np.ndarray, "n C"]) -> Float[np.ndarray, "n C"]:
        table = self.splat @ values
        for blur in self.blurs:
            table = blur @ table
        return self.slice @ table


def host_filter(lattice: Lattice) -> Filter:
    """Makes the filter of a lattice as SciPy sparse products: 5 to 10 times XLA's scatter on a CPU.

    Args:
        lattice: from either builder.

    Returns:
        A function float32[n C] → float32[n C].
    """
    vertex, weight, neighbours = (
        np.asarray(a) for a in (lattice.vertex, lattice.weight, lattice.neighbours)
    )
    corners, n = vertex.shape
    m = lattice.capacity
    # The row of "no vertex" is kept as an empty last row, so that indices need no translation.
    data = np.where(vertex < m, weight, 0).T.ravel()
    start = np.arange(0, corners * n + 1, corners, dtype=np.int32)
    gather = scipy.sparse.csr_matrix((data, vertex.T.ravel(), start), shape=(n, m + 1))
    blurs = tuple(_blur_matrix(*pair) for pair in neighbours)
    scale = np.float32(_slice_scale(corners))
    return _SparseFilter(gather.T.tocsr(), blurs, gather * scale)


def scale_filter(
    filter_: Filter, before: Float[np.ndarray, "n"], after: Float[np.ndarray, "n"]
) -> Filter:
    """Folds `after · filter(before · values)` into the matrices of a `host_filter`.

    Args:
        filter_: from `host_filter`.
        before: float32[n], factor of each point that is read.
        after: float32[n], factor of each point that is written.
    """
    if not isinstance(filter_, _SparseFilter):
        raise UserError("filter_: expected the result of host_filter(lattice)")
    splat, gather = filter_.splat.copy(), filter_.slice.copy()
    splat.data *= before[splat.indices]
    gather.data *= np.repeat(after, np.diff(gather.indptr))
    return _SparseFilter(splat, filter_.blurs, gather)


def _blur_matrix(below: np.ndarray, above: np.ndarray) -> Any:
    """Makes identity + half of each neighbour as a CSR matrix; the row of "no vertex" is empty."""
    m = len(below) - 1
    columns = np.stack([np.arange(m, dtype=np.int32), below[:-1], above[:-1]], axis=1)
    start = np.zeros(m + 2, np.int32)
    np.cumsum(1 + (below[:-1] < m) + (above[:-1] < m), out=start[1:-1])
    start[-1] = start[-2]
    values = np.full(start[-1], 0.5, np.float32)
    values[start[:m]] = 1
    indices = columns[columns < m]
    return scipy.sparse.csr_matrix((values, indices, start), shape=(m + 1, m + 1))


def _slice_scale(corners: int) -> float:
    """The reciprocal of the lattice's gain: d+1 blurs of weight 2 over a simplex of d+1 corners."""
    return 1 / (1 + 2.0 ** -(corners - 1))


def _spread(rows: np.ndarray, valid: np.ndarray, fill: int) -> np.ndarray:
    """Puts the columns of valid points at their places; the others get `fill`."""
    out = np.full((rows.shape[0], len(valid)), fill, rows.dtype)
    out[:, valid] = rows[:, : int(valid.sum())]
    return out


def _device_neighbours(unique: list[Any], plan: Any, corners: int) -> Any:
    """Finds both neighbours along all axes by one lexicographic binary search: Int[d+1 2 m+1]."""
    m = unique[0].shape[0]
    real = unique[0] != _DEVICE_LIMIT
    targets = []
    for have, word in zip(unique, plan, strict=True):
        step = np.asarray([axis_delta(word, axis, corners) for axis in range(corners)], np.int32)
        targets.append(jnp.where(real, have + step[:, None], 0))

    def halve(_: Any, span: tuple[Any, Any]) -> tuple[Any, Any]:
        low, high = span
        middle = jnp.minimum((low + high) // 2, m - 1)
        less, equal = jnp.zeros(low.shape, bool), jnp.ones(low.shape, bool)
        for have, want in zip(unique, targets, strict=True):
            there = have[middle]
            less |= equal & (there < want)
            equal &= there == want
        less &= low < high
        return jnp.where(less, middle + 1, low), jnp.where(less, high, middle)

    zero = jnp.zeros((corners, m), jnp.int32)
    place, _ = jax.lax.fori_loop(0, m.bit_length() + 1, halve, (zero, zero + m))
    place = jnp.minimum(place, m - 1)
    found = jnp.broadcast_to(real, place.shape)
    for have, want in zip(unique, targets, strict=True):
        found &= have[place] == want
    above = jnp.where(found, place, m)
    # The two directions are each other's inverse, so one search serves both.
    below = jnp.full((corners, m + 1), m, jnp.int32)
    below = below.at[np.arange(corners)[:, None], above].set(jnp.arange(m, dtype=jnp.int32))
    above = jnp.concatenate([above, jnp.full((corners, 1), m, jnp.int32)], axis=1)
    return jnp.stack([above, below.at[:, m].set(m)], axis=1)

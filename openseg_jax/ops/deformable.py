"""Multi-scale deformable attention: a few sampled points a query, from maps of several sizes.

The published operator is a compiled CUDA kernel. Here each of the four corners of every sampling
point is one gather of whole rows, so it runs and differentiates wherever JAX does.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.types import Array, Float

__all__ = ["deformable_attention", "query_centres"]


def query_centres(sizes: Sequence[tuple[int, int]]) -> Float[np.ndarray, "L 2"]:
    """Returns the centres (x, y) in [0, 1] of all cells of maps of `sizes`, one map after another.

    Args:
        sizes: (h, w) of each map; their cells are listed row by row.
    """
    rows = []
    for h, w in sizes:
        y, x = np.meshgrid((np.arange(h) + 0.5) / h, (np.arange(w) + 0.5) / w, indexing="ij")
        rows.append(np.stack([x, y], axis=-1).reshape(-1, 2))
    return np.concatenate(rows).astype(np.float32)


def deformable_attention(
    value: Float[Array, "B S A d"],
    sizes: Sequence[tuple[int, int]],
    locations: Float[Array, "B N A l P 2"],
    weights: Float[Array, "B N A l P"],
) -> Float[Array, "B N A d"]:
    """Sums bilinear samples of the maps, each times its weight.

    A location (x, y) means the point (x·w, y·h) of its map, whose cells have their centres at
    half-integers. What lies outside of a map is zero.

    Args:
        value: the l maps, row by row and one after another (S cells in all), split into heads.
        sizes: (h, w) of each map, static.
        locations: of P points in each map for each query and head; 1 is the whole width or height.
        weights: of the same points; they need not sum to 1 over any axis.

    Returns:
        One vector for each query and head, in the dtype of `value`; positions and weights are
        computed in float32.

    Source: Deformable DETR, eq. 3; torch `grid_sample(align_corners=False, padding_mode="zeros")`.
    """
    batch, cells, heads, depth = value.shape
    areas = [h * w for h, w in sizes]
    if cells != sum(areas) or locations.shape[3] != len(sizes):
        raise AssertionError(f"value has {cells} cells, for maps {tuple(sizes)}")
    table = value.reshape(batch, cells * heads, depth)
    head = jnp.arange(heads, dtype=jnp.int32)[:, None, None]
    start = jnp.asarray(np.cumsum([0, *areas[:-1]]), jnp.int32)[:, None]
    height, width = jnp.asarray(sizes, jnp.float32).T[..., None]
    x = locations[..., 0].astype(jnp.float32) * width - 0.5
    y = locations[..., 1].astype(jnp.float32) * height - 0.5
    left, top = jnp.floor(x), jnp.floor(y)
    out = jnp.zeros((*locations.shape[:3], depth), jnp.float32)
    for down in (0, 1):
        for right in (0, 1):
            column, row = left + right, top + down
            share = (1 - jnp.abs(x - column)) * (1 - jnp.abs(y - row))
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            share = jnp.where(inside, share, 0) * weights.astype(jnp.float32)
            # Clipped as floats: far outside, an integer would overflow.
            row, column = jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)
            at = (row * width + column).astype(jnp.int32) + start
            at = at * heads + head
            found = jax.vmap(lambda t, i: t.at[i].get(mode="promise_in_bounds"))(table, at)
            out = out + jnp.sum(share[..., None] * found.astype(jnp.float32), axis=(-3, -2))
    return out.astype(value.dtype)

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
    batch, cells, heads, width = value.shape
    if cells != sum(h * w for h, w in sizes) or locations.shape[3] != len(sizes):
        raise AssertionError(f"value has {cells} cells, for maps {tuple(sizes)}")
    table = value.reshape(batch, cells * heads, width)
    head = jnp.arange(heads, dtype=jnp.int32)[:, None]
    locations, weights = locations.astype(jnp.float32), weights.astype(jnp.float32)
    out = jnp.zeros((*locations.shape[:3], width), jnp.float32)
    start = 0
    for level, (h, w) in enumerate(sizes):
        x = locations[:, :, :, level, :, 0] * w - 0.5
        y = locations[:, :, :, level, :, 1] * h - 0.5
        left, top = jnp.floor(x), jnp.floor(y)
        for down in (0, 1):
            for right in (0, 1):
                column, row = left + right, top + down
                share = (1 - jnp.abs(x - column)) * (1 - jnp.abs(y - row))
                inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
                share = jnp.where(inside, share, 0) * weights[:, :, :, level]
                # Clipped as floats: far outside, an integer would overflow.
                at = jnp.clip(row, 0, h - 1) * w + jnp.clip(column, 0, w - 1)
                at = (start + at.astype(jnp.int32)) * heads + head
                found = jax.vmap(lambda t, i: t.at[i].get(mode="promise_in_bounds"))(table, at)
                out = out + jnp.sum(share[..., None] * found.astype(jnp.float32), axis=-2)
        start += h * w
    return out.astype(value.dtype)

"""Bilinear sampling at the centres of a coarser or finer grid, by gathering 2×2 neighbours.

The same numbers as the half-pixel matrices of `ops.resize`, made another way: only the neighbours
are read, which is far less where the grid is coarse, and the true size may be a traced number.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.types import Array, Float

__all__ = ["sample_centres"]


def sample_centres(
    x: Float[Array, "B M H W"],
    grid: tuple[int, int],
    *,
    sizes: Float[Array, "B 2"] | None = None,
) -> Float[Array, "B M h w"]:
    """Resizes maps bilinearly with half-pixel centres, edges clamped and no antialias.

    Args:
        x: maps; bytes and booleans are read as numbers.
        grid: (h, w) of the result, static.
        sizes: (height, width) of each image's true part at the top left of a padded canvas, in
            pixels of `x`, not necessarily whole; the grid covers that part alone and nothing
            beyond it is read. None takes the whole canvas.

    Returns:
        Float32[B M h w]. Constants stay exactly what they are. NumPy arrays without `sizes` are
        sampled on the host.
    """
    if sizes is None:
        return _sample(x, _taps(x.shape[2], grid[0], np), _taps(x.shape[3], grid[1], np))

    def one(maps: Array, size: Array) -> Array:
        return _sample(maps, _taps(size[0], grid[0], jnp), _taps(size[1], grid[1], jnp))

    return jax.vmap(one)(x, jnp.asarray(sizes, jnp.float32))


def _taps(size: Any, count: int, numeric: Any) -> tuple[Any, Any, Any]:
    """Chooses for `count` centres along an axis the two neighbours and the second's weight."""
    last = numeric.ceil(size) - 1
    at = (numeric.arange(count) + 0.5) * (size / count) - 0.5
    at = numeric.clip(at, 0, last)
    first = numeric.floor(at)
    second = numeric.minimum(first + 1, last)
    weight = (at - first).astype(np.float32)
    return first.astype(np.int32), second.astype(np.int32), weight


def _sample(x: Array, rows: tuple[Any, Any, Any], columns: tuple[Any, Any, Any]) -> Array:
    top, bottom, down = rows
    left, right, along = columns
    above, below = x[..., top, :].astype(jnp.float32), x[..., bottom, :].astype(jnp.float32)
    # a + t·(b − a) keeps constants exact, so that a tie with a threshold stays a tie.
    middle = above + down[:, None] * (below - above)
    start, stop = middle[..., left], middle[..., right]
    return start + along * (stop - start)

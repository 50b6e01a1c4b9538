"""From soft masks at any resolution to which patch tokens each mask holds."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.errors import UserError, check_shape
from openseg_jax.types import Array, Bool, Float, Int

__all__ = ["reference_grid", "token_masks"]

THRESHOLD = 0.5


def token_masks(
    masks: Float[Array, "B M h w"],
    grid: tuple[int, int],
    *,
    sizes: Int[Array, "B 2"] | None = None,
    threshold: float = THRESHOLD,
) -> Bool[Array, "B M L"]:
    """Samples masks at the centres of the patches; a patch is inside where that is ≥ ½.

    Bilinear with half-pixel centres and no antialias: only the 2×2 values around each centre
    count, so a line thinner than a patch can vanish. A value of exactly `threshold` is inside. No
    gradient flows through.

    Args:
        masks: soft or 0/1 masks at any resolution, e.g. that of the image.
        grid: patches (h, w) of the image tower.
        sizes: (height, width) of each image's true part at the top left of a padded canvas, in
            pixels of `masks`; the grid covers that part alone. None takes the whole canvas.
        threshold: see above.

    Returns:
        Bool[B M L], L = h·w row-major.

    Source: maft.md §1.4.
    """
    check_shape(masks, "B M h w", "masks", fix="give one soft mask a proposal, B M h w")
    masks = jax.lax.stop_gradient(masks)
    height, width = masks.shape[2:]
    if sizes is None:
        rows, columns = _taps(height, grid[0]), _taps(width, grid[1])
        values = _sample(masks, rows, columns)
    else:

        def one(mask: Array, size: Array) -> Array:
            rows, columns = _traced_taps(size[0], grid[0]), _traced_taps(size[1], grid[1])
            return _sample(mask, rows, columns)

        values = jax.vmap(one)(masks, sizes)
    return (values >= threshold).reshape(*masks.shape[:2], grid[0] * grid[1])


def reference_grid(grid: tuple[int, int]) -> tuple[int, int]:
    """Returns the grid to which the published code resizes masks: √L × √L, whatever the image.

    Parity. On a grid that is not square this scrambles where masks lie (a 4×9 grid takes 6×6
    masks), and where L is no square the published code fails.

    Raises:
        UserError: where L = h·w is not a square number.
    """
    side = math.isqrt(grid[0] * grid[1])
    if side * side != grid[0] * grid[1]:
        raise UserError(
            f"grid: expected h·w to be a square number under parity, got {grid[0]}×{grid[1]}; "
            "leave out parity, or give images whose grid is square"
        )
    return side, side


def _taps(size: int, count: int) -> tuple[Any, Any, Any]:
    """Chooses for `count` centres along an axis the two neighbours and the second's weight."""
    at = np.clip((np.arange(count) + 0.5) * (size / count) - 0.5, 0, size - 1)
    first = np.floor(at).astype(np.int32)
    return first, np.minimum(first + 1, size - 1), (at - first).astype(np.float32)


def _traced_taps(size: Int[Array, ""], count: int) -> tuple[Array, Array, Array]:
    at = (jnp.arange(count) + 0.5) * (size.astype(jnp.float32) / count) - 0.5
    at = jnp.clip(at, 0, size - 1)
    first = jnp.floor(at).astype(jnp.int32)
    return first, jnp.minimum(first + 1, size - 1), at - first


def _sample(masks: Array, rows: tuple[Any, Any, Any], columns: tuple[Any, Any, Any]) -> Array:
    # a + t·(b − a) keeps constants exact, so that a tie stays a tie.
    top, bottom, down = rows
    left, right, along = columns
    above, below = masks[..., top, :].astype(jnp.float32), masks[..., bottom, :].astype(jnp.float32)
    middle = above + down[:, None] * (below - above)
    start, stop = middle[..., left], middle[..., right]
    return start + along * (stop - start)

"""From soft masks at any resolution to which patch tokens each mask holds."""

from __future__ import annotations

import math

import jax
import numpy as np

from openseg_jax.errors import UserError, check_shape
from openseg_jax.ops.sampling import sample_centres
from openseg_jax.types import Array, Bool, Float

__all__ = ["reference_grid", "token_masks"]

THRESHOLD = 0.5


def token_masks(
    masks: Float[Array, "B M h w"],
    grid: tuple[int, int],
    *,
    sizes: Float[Array, "B 2"] | None = None,
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
        Bool[B M L], L = h·w row-major; a NumPy array for NumPy masks without `sizes`.

    Source: maft.md §1.4.
    """
    check_shape(masks, "B M h w", "masks", fix="give one soft mask a proposal, B M h w")
    values = sample_centres(masks, grid, sizes=sizes)
    if not isinstance(values, np.ndarray):
        values = jax.lax.stop_gradient(values)
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

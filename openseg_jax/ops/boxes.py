"""Boxes around the strong parts of an activation map, on the patch grid.

CaR (like CLIP-ES) lets a map spread only inside the bounding boxes of its connected parts. The
reference goes through OpenCV contours on the host; here the boxes come from a max propagation
that runs on the device for many maps at once.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from openseg_jax.errors import UserError
from openseg_jax.types import Array, Bool, Float, Int

__all__ = ["box_masks", "boxes_of", "component_boxes", "foreground", "threshold_table"]

_RETRY_STEP = 0.1


def threshold_table(fraction: float) -> Int[np.ndarray, "256"]:
    """Tabulates the 8-bit threshold that a map with a given 8-bit maximum gets.

    A map keeps its cells above `int(fraction * maximum)`. Where that keeps nothing (fractions of
    1 and more), the fraction is lowered by 0.1 until something is kept or it is used up. The
    table is made on the host in float64, because `0.9 * 250` in float32 is already another
    integer; it is an ordinary array, so another fraction does not recompile anything.

    Args:
        fraction: λ (`clipes_threshold`), above 0.

    Returns:
        Int32[256]: threshold for every maximum 0..255; 256 where nothing is ever kept.

    Raises:
        UserError: if the fraction is not above 0.
    """
    if not fraction > 0:
        raise UserError(f"fraction: expected a number above 0, got {fraction}; try 0.4")
    table = np.full(256, 256, np.int32)
    for maximum in range(256):
        left = float(fraction)
        while left > 0:
            threshold = int(left * maximum)
            if maximum > threshold:
                table[maximum] = threshold
                break
            left -= _RETRY_STEP
    return table


def foreground(
    maps: Float[Array, "*K h w"],
    table: Int[Array, "256"],
    valid: Bool[Array, "*#K h w"] | None = None,
) -> Bool[Array, "*K h w"]:
    """Marks the cells of each map that pass its own 8-bit threshold.

    Args:
        maps: activation maps in [0, 1].
        table: from `threshold_table`.
        valid: cells that exist; None means all.

    Returns:
        Bool[*K h w]. A map of zeros has no foreground.

    Source: the reference truncates 255·map to uint8 and thresholds strictly, car.md §3.6.
    """
    levels = jnp.clip((maps * 255).astype(jnp.int32), 0, 255)
    if valid is not None:
        levels = jnp.where(valid, levels, 0)
    top = levels.max(axis=(-2, -1), keepdims=True)
    kept = levels > jnp.asarray(table)[top]
    return kept if valid is None else kept & valid


def component_boxes(mask: Bool[Array, "*K h w"]) -> Int[Array, "*K h w 4"]:
    """Gives every marked cell the bounding box of its 8-connected component.

    Args:
        mask: marked cells.

    Returns:
        Int32[*K h w 4]: (x0, y0, x1, y1), half open, in cells. Cells that are not marked hold
        the empty box (w, h, 0, 0).
    """
    h, w = mask.shape[-2:]
    y, x = jnp.arange(h, dtype=jnp.int32)[:, None], jnp.arange(w, dtype=jnp.int32)[None, :]
    # Four extents, each to be maximised over the component; the lowest ones are negated.
    own = jnp.stack(jnp.broadcast_arrays(-x, -y, x + 1, y + 1), axis=-3)
    lowest = jnp.asarray([-w, -h, 0, 0], jnp.int32)[:, None, None]
    inside = mask[..., None, :, :]
    window = (1,) * (mask.ndim - 1) + (3, 3)

    def spread(state: tuple[Array, Array]) -> tuple[Array, Array]:
        extents, _ = state
        wider = lax.reduce_window(
            extents, jnp.int32(-(2**30)), lax.max, window, (1,) * len(window), "SAME"
        )
        wider = jnp.where(inside, wider, lowest)
        return wider, jnp.any(wider != extents)

    start = jnp.where(inside, own, lowest)
    extents, _ = lax.while_loop(lambda state: state[1], spread, (start, jnp.bool_(True)))
    sign = jnp.asarray([-1, -1, 1, 1], jnp.int32)
    return jnp.moveaxis(extents, -3, -1) * sign


def box_masks(
    maps: Float[Array, "*K h w"],
    table: Int[Array, "256"] | float,
    *,
    size: tuple[Any, Any] | None = None,
    border_quirk: bool = False,
) -> Bool[Array, "*K h w"]:
    """Marks the union of the boxes around the strong components of each map.

    Args:
        maps: activation maps in [0, 1] on the patch grid.
        table: from `threshold_table`, or the fraction λ itself.
        size: true (h, w) where the grid is padded at the bottom and right; ints or int32
            scalars. Cells beyond it are ignored and never marked.
        border_quirk: True clips both ends of a box to w - 1 and h - 1 as the reference does,
            so that the last row and column are never inside a box. False keeps whole boxes.

    Returns:
        Bool[*K h w].

    Source: car.md §3.6 (CLIP-ES). Holes add nothing, since their boxes lie inside.
    """
    h, w = maps.shape[-2:]
    if isinstance(table, int | float):
        table = jnp.asarray(threshold_table(float(table)))
    true_h, true_w = (h, w) if size is None else size
    rows, columns = jnp.arange(h), jnp.arange(w)
    valid = None
    if size is not None:
        valid = (rows < true_h)[:, None] & (columns < true_w)[None, :]
    mask = foreground(maps, table, valid)
    x0, y0, x1, y1 = jnp.moveaxis(component_boxes(mask), -1, 0)
    if border_quirk:
        x0, x1 = jnp.minimum(x0, true_w - 1), jnp.minimum(x1, true_w - 1)
        y0, y1 = jnp.minimum(y0, true_h - 1), jnp.minimum(y1, true_h - 1)
    # A box is the outer product of two intervals; the union over all marked cells is a count of
    # covering boxes, one small matrix product a map (0 and 1 are exact in every precision).
    flat = maps.shape[:-2] + (h * w, 1)
    in_rows = (y0.reshape(flat) <= rows) & (rows < y1.reshape(flat))
    in_columns = (x0.reshape(flat) <= columns) & (columns < x1.reshape(flat))
    covering = jnp.einsum(
        "...iy,...ix->...yx", in_rows.astype(jnp.float32), in_columns.astype(jnp.float32)
    )
    return covering > 0.5


def boxes_of(mask: np.ndarray) -> np.ndarray:
    """Lists the distinct component boxes of one mask, on the host.

    Args:
        mask: Bool[h w].

    Returns:
        Int[n 4]: (x0, y0, x1, y1), half open, sorted.
    """
    boxes = np.asarray(jax.device_get(component_boxes(jnp.asarray(mask))))
    return np.unique(boxes[np.asarray(mask)].reshape(-1, 4), axis=0)

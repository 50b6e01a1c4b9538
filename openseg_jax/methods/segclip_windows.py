"""Windows over an image: where they lie, their pixels, and the way back to the image's pixels.

All lengths may be Python ints or traced numbers: an image that fills only a part of its canvas
then gives what it gives alone.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from openseg_jax.methods.segclip_config import Plan
from openseg_jax.ops.resize_cv2 import cv2_taps, resize_window
from openseg_jax.types import Array, Float, UInt8

__all__ = ["back", "pixels_at", "start", "window_count"]


def window_count(plan: Plan, work: Any) -> Any:
    """Counts the windows along an axis of `work` pixels."""
    over = work - plan.crop + plan.stride - 1
    if isinstance(work, int):
        return 1 if plan.whole else max(over, 0) // plan.stride + 1
    return jnp.maximum(over, 0) // plan.stride + 1


def start(plan: Plan, index: Any, work: Any) -> Any:
    """Returns where a window begins; the last is shifted back inside the image."""
    if isinstance(index, int) and isinstance(work, int):
        return min(index * plan.stride, max(work - plan.crop, 0))
    return jnp.minimum(index * plan.stride, jnp.maximum(work - plan.crop, 0))


def pixels_at(
    image: UInt8[Array, "H W 3"],
    size: tuple[Any, Any],
    work: tuple[Any, Any],
    at: tuple[Any, Any],
    side: tuple[int, int],
) -> UInt8[Array, "h w 3"]:
    """Reads a window of the resized image, without making the whole of it.

    Args:
        image: bytes; only its true part is read.
        size: (H, W) of the true part. work: of the resized image.
        at: (row, column) where the window begins in the resized image.
        side: (h, w) of the window, static. Where the resized image is smaller than that, its
            last row or column is repeated.
    """
    taps = []
    for axis in range(2):
        n: Any = np if isinstance(at[axis], int) else jnp
        places = n.clip(at[axis] + np.arange(side[axis]), 0, work[axis] - 1)
        taps.append(cv2_taps(places, size[axis], work[axis], rows=axis == 0))
    return resize_window(image, *taps)


def back(
    plan: Plan, canvas: int, size: Any, work: Any, at: Any, side: int
) -> Float[Array, "canvas side"]:
    """Builds the matrix from a window's axis to the image's: bilinear, averaged where they overlap.

    The sum of all windows' matrices is the half-pixel matrix without antialias from `work` to
    `size`; rows beyond `size` mean nothing.

    Source: torch `interpolate(bilinear, align_corners=False)` of the averaged score maps.
    """
    plain = all(isinstance(x, int) for x in (size, work, at))
    n: Any = np if plain else jnp
    positions = n.clip((n.arange(canvas) + 0.5) * (work / size) - 0.5, 0, work - 1)
    places = at + n.arange(side)
    weights = n.maximum(1.0 - n.abs(positions[:, None] - places[None, :]), 0.0)
    if plan.whole:
        return weights.astype(np.float32)
    covering: Any = 0
    count = window_count(plan, work)
    for index in range(count if isinstance(count, int) else plan.most_windows):
        begin = start(plan, index, work)
        inside = (places >= begin) & (places < begin + plan.crop) & (index < count)
        covering = covering + inside
    return (weights / n.maximum(covering, 1)).astype(np.float32)

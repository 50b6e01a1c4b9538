"""OpenCV's bilinear resize of 8-bit images, bit for bit, for any window of the result.

OpenCV interpolates bytes with 11-bit weights, and drops bits between its two passes. Positions
are the correctly rounded float32 of ((2i + 1)·in − out) / (2·out), which a plain float32 division
gives as long as both are below 2**24; so a true size may also be a traced number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.types import Array, Int, UInt8

__all__ = ["Taps", "cv2_taps", "resize_window"]

_ONE = 2048.0


class Taps(NamedTuple):
    """Two neighbours and their integer weights, for each place along an axis.

    Attributes:
        first, second: Int32[n], places in the source.
        near, far: Int32[n], weights of the two in 1/2048.
    """

    first: Int[Array, " n"]
    second: Int[Array, " n"]
    near: Int[Array, " n"]
    far: Int[Array, " n"]


def cv2_taps(places: Any, source: Any, target: Any, *, rows: bool) -> Taps:
    """Finds what OpenCV reads for places of a resized axis.

    Args:
        places: Int[n], places in the resized axis.
        source, target: lengths of the axis before and after; Python ints give NumPy arrays,
            traced numbers traced ones.
        rows: the axis is the height. Beyond the outermost pixels' centres OpenCV drops the far
            column's weight, but blends the outermost row with itself, which may round otherwise.
    """
    plain = not any(isinstance(x, jax.Array) for x in (places, source, target))
    n: Any = np if isinstance(source, int) and isinstance(target, int) and plain else jnp
    numerator = ((2 * n.asarray(places) + 1) * source - target).astype(np.float32)
    at = numerator / n.asarray(2 * target).astype(np.float32)
    base = n.floor(at)
    weight = (at - base).astype(np.float32)
    if not rows:
        outside = (base < 0) | (base >= source - 1)
        weight = n.where(outside, np.float32(0), weight)
    first = n.clip(base, 0, source - 1).astype(np.int32)
    second = n.clip(base + 1, 0, source - 1).astype(np.int32)
    far = n.round(weight * np.float32(_ONE)).astype(np.int32)
    near = n.round((np.float32(1) - weight) * np.float32(_ONE)).astype(np.int32)
    return Taps(first, second, near, far)


def resize_window(image: UInt8[Array, "H W 3"], rows: Taps, columns: Taps) -> UInt8[Array, "h w 3"]:
    """Computes the pixels of a resized image at given rows and columns.

    Args:
        image: RGB or BGR bytes; only the taps' places are read, so padding never matters.
        rows, columns: from `cv2_taps`; where all is NumPy, so is the result.

    Source: `cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)` on uint8.
    """
    # On the host this runs in NumPy, so that worker processes need no device.
    n: Any = jnp if any(isinstance(x, jax.Array) for x in (image, *rows, *columns)) else np
    near, far = columns.near[:, None], columns.far[:, None]

    def across(row: Any) -> Any:
        line = n.asarray(image)[row]
        left, right = line[:, columns.first], line[:, columns.second]
        return (left.astype(np.int32) * near + right.astype(np.int32) * far) >> 4

    top, bottom = across(rows.first), across(rows.second)
    top = (top * rows.near[:, None, None]) >> 16
    bottom = (bottom * rows.far[:, None, None]) >> 16
    return n.clip((top + bottom + 2) >> 2, 0, 255).astype(np.uint8)

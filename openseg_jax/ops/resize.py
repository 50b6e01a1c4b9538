"""Resizing as one pair of fixed matrices, one function a convention.

Conventions differ by more than the accuracy of any of our comparisons, so each has its own name:

| name | what follows it |
|---|---|
| `half_pixel` | cv2.INTER_LINEAR, torch `align_corners=False`: no antialias, edges clamped |
| `align_corners` | torch `align_corners=True` |
| `pil` | Pillow's `resize`: antialiased when shrinking, edges cut and renormalised |

Bicubic means a = -0.75 in the first two (OpenCV, torch) and a = -0.5 in Pillow. Matrices are made
on the host in float64; where true sizes differ within one padded canvas, make them per image,
`pad_matrix` them and pass them in as arrays.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from openseg_jax.errors import UserError, unknown_name
from openseg_jax.types import Array, Float

__all__ = [
    "align_corners",
    "apply_matrices",
    "crop_rows",
    "half_pixel",
    "matrix",
    "pad_matrix",
    "pil",
    "resize",
    "short_side_size",
]

METHODS = ("bilinear", "bicubic")
_RADIUS = {"bilinear": 1.0, "bicubic": 2.0}


def _kernel(x: np.ndarray, method: str, a: float) -> np.ndarray:
    x = np.abs(x)
    if method == "bilinear":
        return np.maximum(0.0, 1.0 - x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _sample(positions: np.ndarray, in_size: int, method: str) -> np.ndarray:
    """Builds rows that interpolate at positions (in pixel centres), edges clamped."""
    _check(in_size, len(positions), method)
    out = np.zeros((len(positions), in_size), np.float64)
    base = np.floor(positions).astype(np.int64)
    taps = range(0, 2) if method == "bilinear" else range(-1, 3)
    rows = np.arange(len(positions))
    for tap in taps:
        weight = _kernel(positions - (base + tap), method, a=-0.75)
        np.add.at(out, (rows, np.clip(base + tap, 0, in_size - 1)), weight)
    return out


def _check(in_size: int, out_size: int, method: str) -> None:
    if method not in METHODS:
        unknown_name(method, METHODS, "method")
    if in_size < 1 or out_size < 1:
        raise UserError(f"size: expected sizes of at least 1, got {in_size} -> {out_size}")


def half_pixel(
    in_size: int, out_size: int, method: str = "bilinear"
) -> Float[np.ndarray, "out in"]:
    """Builds the half-pixel matrix without antialias: row i samples (i + ½)·in/out - ½.

    Args:
        in_size: input length.
        out_size: output length.
        method: "bilinear" or "bicubic" (a = -0.75).

    Returns:
        Float64[out_size in_size], rows sum to 1.

    Source: cv2.INTER_LINEAR; torch `interpolate(align_corners=False, antialias=False)`.
    """
    positions = (np.arange(out_size) + 0.5) * (in_size / out_size) - 0.5
    if method == "bilinear":
        positions = np.clip(positions, 0, in_size - 1)
    return _sample(positions, in_size, method)


def align_corners(
    in_size: int, out_size: int, method: str = "bilinear"
) -> Float[np.ndarray, "out in"]:
    """Builds the matrix that maps the first and last samples onto each other.

    Args:
        in_size: input length.
        out_size: output length; 1 samples the first input.
        method: "bilinear" or "bicubic" (a = -0.75).

    Returns:
        Float64[out_size in_size], rows sum to 1.

    Source: torch `interpolate(align_corners=True)`.
    """
    step = (in_size - 1) / (out_size - 1) if out_size > 1 else 0.0
    return _sample(np.arange(out_size) * step, in_size, method)


def pil(in_size: int, out_size: int, method: str = "bicubic") -> Float[np.ndarray, "out in"]:
    """Builds Pillow's matrix: the kernel widens when shrinking, and is cut at the edges.

    Args:
        in_size: input length.
        out_size: output length.
        method: "bilinear" or "bicubic" (a = -0.5).

    Returns:
        Float64[out_size in_size], rows sum to 1.

    Source: Pillow's resampling rule (centre (i + ½)·scale, taps from truncated bounds).
    """
    _check(in_size, out_size, method)
    scale = in_size / out_size
    stretch = max(scale, 1.0)
    reach = _RADIUS[method] * stretch
    out = np.zeros((out_size, in_size), np.float64)
    for i in range(out_size):
        centre = (i + 0.5) * scale
        first = max(int(centre - reach + 0.5), 0)
        last = min(int(centre + reach + 0.5), in_size)
        at = np.arange(first, last)
        weights = _kernel((at - centre + 0.5) * (1.0 / stretch), method, a=-0.5)
        # Added up one by one, as Pillow does: NumPy's pairwise sum differs in the last bit.
        out[i, first:last] = weights / np.add.accumulate(weights)[-1]
    return out


CONVENTIONS = {"half_pixel": half_pixel, "align_corners": align_corners, "pil": pil}


def matrix(
    in_size: int, out_size: int, *, convention: str, method: str
) -> Float[np.ndarray, "out in"]:
    """Builds the resize matrix of a named convention, see the module's table."""
    if convention not in CONVENTIONS:
        unknown_name(convention, CONVENTIONS, "convention")
    return CONVENTIONS[convention](in_size, out_size, method)


def pad_matrix(
    weights: Float[np.ndarray, "out in"], out_size: int, in_size: int
) -> Float[np.ndarray, "out_size in_size"]:
    """Pads a matrix with zeros at the bottom and right, for images in a padded canvas."""
    rows, columns = weights.shape
    if rows > out_size or columns > in_size:
        raise UserError(f"weights: expected at most [{out_size} {in_size}], got [{rows} {columns}]")
    return np.pad(weights, ((0, out_size - rows), (0, in_size - columns)))


def short_side_size(size: tuple[int, int], short: int) -> tuple[int, int]:
    """Returns (h, w) with the short side set and the long side truncated to an integer.

    Source: torchvision's `Resize(int)`, hence CLIP's own preprocessing.
    """
    h, w = size
    long = int(short * max(h, w) / min(h, w))
    return (short, long) if h <= w else (long, short)


def crop_rows(length: int, crop: int) -> slice:
    """Returns the centre `crop` of `length`, rounding a half start to even as torchvision does."""
    if crop > length:
        raise UserError(f"crop: expected at most {length}, got {crop}; resize to a larger side")
    start = round((length - crop) / 2)
    return slice(start, start + crop)


def apply_matrices(
    x: Float[Array, "..."],
    rows: Float[Any, "H h"],
    columns: Float[Any, "W w"],
    *,
    axes: tuple[int, int] = (-2, -1),
) -> Float[Array, "..."]:
    """Applies a row and a column matrix to two axes of an array.

    Args:
        x: any floating array.
        rows: Float[H h], acts on the first axis of `axes`.
        columns: Float[W w], acts on the second.
        axes: which axes hold height and width: (-2, -1) for maps, (-3, -2) for channels last.

    Returns:
        The array with h, w replaced by H, W; float32 arithmetic at the highest precision.
    """
    y = jnp.moveaxis(jnp.asarray(x), axes, (-2, -1))
    rows, columns = jnp.asarray(rows, jnp.float32), jnp.asarray(columns, jnp.float32)
    y = jnp.einsum("...hw,Ww->...hW", y, columns, precision=lax.Precision.HIGHEST)
    y = jnp.einsum("...hW,Hh->...HW", y, rows, precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(y, (-2, -1), axes)


def resize(
    x: Float[Array, "..."],
    size: tuple[int, int],
    *,
    convention: str = "half_pixel",
    method: str = "bilinear",
    axes: tuple[int, int] = (-2, -1),
) -> Float[Array, "..."]:
    """Resizes maps, position grids or float images to a static size.

    Args:
        x: Float[.. h w] (or another place of the axes).
        size: (H, W), static.
        convention: "half_pixel", "align_corners" or "pil".
        method: "bilinear" or "bicubic".
        axes: which axes hold height and width.

    Returns:
        Float32[.. H W].

    Source: values agree with torch and OpenCV to about 1e-6 of the largest value. For 8-bit
    images with Pillow's roundings see `ops.resize_uint8`.
    """
    h, w = x.shape[axes[0]], x.shape[axes[1]]
    rows = matrix(h, size[0], convention=convention, method=method)
    columns = matrix(w, size[1], convention=convention, method=method)
    return apply_matrices(x.astype(jnp.float32), rows, columns, axes=axes)

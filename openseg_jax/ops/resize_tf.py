"""TensorFlow's `tf.image.resize` on the host: what weights from big_vision saw in training.

Its bilinear kernel without antialias is reproduced in its own arithmetic, because big_vision cuts
the result back to whole grey levels by truncation, where a last bit is a whole level.
"""

from __future__ import annotations

import numpy as np

from openseg_jax.errors import unknown_name
from openseg_jax.types import Float

METHODS = ("bilinear", "bicubic", "area", "nearest")


def resize_tf(
    image: np.ndarray, size: tuple[int, int], method: str = "bilinear", *, antialias: bool = False
) -> Float[np.ndarray, "H W C"]:
    """Resizes an image as `tf.image.resize` does.

    Args:
        image: any numbers [h w C].
        size: (H, W) of the result.
        method: one of `METHODS`.
        antialias: widen the kernel when shrinking; "area" and "nearest" do not look at it.

    Returns:
        Float32, not rounded; with "nearest" the values' own dtype.

    Raises:
        UserError: for another method.
    """
    if method not in METHODS:
        unknown_name(method, METHODS, "method")
    if method == "nearest":
        rows, columns = (_nearest(old, new) for old, new in zip(image.shape, size, strict=False))
        return image[rows[:, None], columns[None, :]]
    x = image.astype(np.float32)
    if tuple(size) == image.shape[:2]:
        return x
    if method == "bilinear" and not antialias:
        return _bilinear(x, size)
    kernels = [
        _matrix(old, new, method, antialias).astype(np.float32)
        for old, new in zip(image.shape, size, strict=False)
    ]
    return np.einsum("Hh,hwc,Ww->HWc", kernels[0], x, kernels[1], optimize=True)


def to_dtype(image: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Returns to an integer dtype by clipping and truncation, as big_vision's `resize` does."""
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        image = np.clip(image, limits.min, limits.max)
    return image.astype(dtype)


def _nearest(old: int, new: int) -> np.ndarray:
    at = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new)
    return np.minimum(np.floor(at).astype(np.int64), old - 1)


def _taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper neighbour of each row, and how far it lies between, in float32 steps."""
    scale = np.float32(old) / np.float32(new)
    at = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    low = np.floor(at)
    lower = np.maximum(low, 0).astype(np.int64)
    upper = np.minimum(np.ceil(at), old - 1).astype(np.int64)
    return lower, upper, (at - low).astype(np.float32)


def _bilinear(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    top, bottom, down = _taps(x.shape[0], size[0])
    left, right, along = _taps(x.shape[1], size[1])
    along, down = along[None, :, None], down[:, None, None]

    def row(rows: np.ndarray) -> np.ndarray:
        a, b = x[rows[:, None], left[None, :]], x[rows[:, None], right[None, :]]
        return a + (b - a) * along

    above, below = row(top), row(bottom)
    return above + (below - above) * down


def _matrix(old: int, new: int, method: str, antialias: bool) -> np.ndarray:
    """Builds the float64 matrix [new old] of one axis; what lies beyond the border is left out."""
    scale = old / new
    if method == "area":
        starts = np.arange(new)[:, None] * scale
        cells = np.arange(old)[None, :]
        cover = np.minimum(starts + scale, cells + 1) - np.maximum(starts, cells)
        weights = np.maximum(cover, 0.0)
    else:
        stretch = max(scale, 1.0) if antialias else 1.0
        at = (np.arange(new)[:, None] + 0.5) * scale - 0.5
        if not antialias:
            # That kernel is read from a table of 1024 steps between two pixels.
            at = np.floor(at) + np.rint((at - np.floor(at)) * 1024) / 1024
        weights = _kernel((np.arange(old)[None, :] - at) / stretch, method)
    return weights / weights.sum(axis=1, keepdims=True)


def _kernel(x: np.ndarray, method: str) -> np.ndarray:
    """The triangle, or Keys' cubic with a = -½."""
    x = np.abs(x)
    if method == "bilinear":
        return np.maximum(0.0, 1.0 - x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))

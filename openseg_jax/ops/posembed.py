"""Resampling of position tables to other grids, under the convention that each weight family uses.

The conventions differ by up to 0.8 on unit-variance tables, so the name of the right one travels
with the weights. Each is a pair of fixed matrices, one an axis, built in float64 on the host.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np

from openseg_jax.errors import unknown_name
from openseg_jax.types import Array, Float

# name: (kernel, align corners, antialias)
CONVENTIONS: dict[str, tuple[str, bool, bool]] = {
    # open_clip: torch interpolate(bicubic, antialias=True)
    "bicubic_antialias": ("cubic-0.5", False, True),
    # Hugging Face and SegCLIP: torch interpolate(bicubic)
    "bicubic": ("cubic-0.75", False, False),
    # MAFT: torch interpolate(bicubic, align_corners=True)
    "bicubic_align_corners": ("cubic-0.75", True, False),
    # CaR and timm's loader: torch interpolate(bilinear)
    "bilinear": ("linear", False, False),
    # big_vision's NaFlex: jax.image.scale_and_translate(bilinear, antialias=True)
    "bilinear_antialias": ("linear", False, True),
    # big_vision: scipy.ndimage.zoom(order=1), which is linear with aligned corners
    "zoom_linear": ("linear", True, False),
}


def _kernel(kind: str, x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    if kind == "linear":
        return np.maximum(1 - x, 0)
    a = float(kind.removeprefix("cubic"))
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


@functools.lru_cache(maxsize=256)
def resample_matrix(source: int, target: int, convention: str) -> np.ndarray:
    """Builds the float64 matrix [target source] that resamples one axis.

    Border samples are clamped, as in torch; with antialiasing the kernel widens when shrinking
    and is renormalised at the border instead, as torch and PIL do.

    Args:
        source, target: lengths of the axis before and after.
        convention: a key of `CONVENTIONS`.
    """
    if convention not in CONVENTIONS:
        unknown_name(convention, CONVENTIONS, "position convention")
    kind, align, antialias = CONVENTIONS[convention]
    steps = np.arange(target, dtype=np.float64)
    if align:
        at = steps * ((source - 1) / (target - 1) if target > 1 else 0.0)
    else:
        at = (steps + 0.5) * source / target - 0.5
    matrix = np.zeros((target, source))
    if antialias:
        stretch = max(source / target, 1.0)
        offsets = np.arange(source)[None, :] - at[:, None]
        matrix = _kernel(kind, offsets / stretch)
        return matrix / matrix.sum(axis=1, keepdims=True)
    reach = 1 if kind == "linear" else 2
    base = np.floor(at).astype(int)
    for tap in range(1 - reach, reach + 1):
        index = np.clip(base + tap, 0, source - 1)
        weight = _kernel(kind, at - (base + tap))
        np.add.at(matrix, (np.arange(target), index), weight)
    return matrix


def resample_positions(
    table: Float[Array, "N D"],
    grid: tuple[int, int],
    *,
    convention: str,
    prefix: int = 0,
) -> Float[Array, "N2 D"]:
    """Resamples a square table of position embeddings to a grid of h×w patches.

    Args:
        table: `prefix` rows that stay as they are (the class token), then R·R rows, row-major.
        grid: (h, w) wanted.
        convention: a key of `CONVENTIONS`.
        prefix: rows before the patches.

    Returns:
        Float32 table with prefix + h·w rows. The native grid comes back unchanged.
    """
    table = table.astype(jnp.float32)
    head, patches = table[:prefix], table[prefix:]
    side = round(patches.shape[0] ** 0.5)
    if (side, side) == tuple(grid):
        return table
    rows = jnp.asarray(resample_matrix(side, grid[0], convention), jnp.float32)
    columns = jnp.asarray(resample_matrix(side, grid[1], convention), jnp.float32)
    square = patches.reshape(side, side, -1)
    # HIGHEST: accelerators would otherwise round positions to bfloat16 on the way.
    out = jnp.einsum("hr,rcd,wc->hwd", rows, square, columns, precision="highest")
    return jnp.concatenate([head, out.reshape(grid[0] * grid[1], -1)])


def sine_positions(height: int, width: int, channels: int) -> Float[np.ndarray, "h w D"]:
    """Builds DETR's position embedding of a grid, for maps of any size.

    The first half of the channels spells the row, the second the column: sines and cosines in
    turn of a coordinate that grows from 2π/h to 2π, at wavelengths 2π to 20000π.

    Args:
        height, width: of the grid.
        channels: D, a multiple of 4.

    Returns:
        Float32[h w D] in [-1, 1].
    """
    half = channels // 2
    rate = 10000.0 ** (-2 * (np.arange(half) // 2) / half)

    def spell(length: int) -> np.ndarray:
        at = np.arange(1, length + 1) / (length + 1e-6) * 2 * np.pi
        angle = at[:, None] * rate
        return np.where(np.arange(half) % 2 == 0, np.sin(angle), np.cos(angle))

    rows = np.broadcast_to(spell(height)[:, None], (height, width, half))
    columns = np.broadcast_to(spell(width)[None], (height, width, half))
    return np.concatenate([rows, columns], axis=-1).astype(np.float32)

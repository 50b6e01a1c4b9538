"""What the dense CRF compares: its parameters, and the features of each pixel for both kernels."""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

import numpy as np

from openseg_jax.ops import permutohedral

__all__ = ["CRFConfig", "gaussian_kernel", "lifted", "normaliser", "pixel_indices", "value_axes"]


@dataclasses.dataclass(frozen=True)
class CRFConfig:
    """The pairwise terms of the dense CRF.

    Attributes:
        spatial_sigma: standard deviation of the position kernel, pixels.
        spatial_weight: its weight.
        bilateral_sigma: standard deviation of the bilateral kernel in position, pixels.
        colour_sigma: its standard deviation in colour, grey levels of 0..255.
        bilateral_weight: its weight.
        kernel: "permutohedral" (linear in pixels, as the reference) or "gaussian" (the exact
            kernels that the lattice approximates; quadratic, up to 8192 pixels; labels differ on
            1 to 4 % of pixels).
        wrap_u8: parity flag. The reference subtracts the BGR mean and casts to bytes, so colours
            below the mean wrap to the bright end (see `crf_image`). False keeps true colours.
    """

    spatial_sigma: float = 1.0
    spatial_weight: float = 3.0
    bilateral_sigma: float = 67.0
    colour_sigma: float = 3.0
    bilateral_weight: float = 4.0
    kernel: str = "permutohedral"
    wrap_u8: bool = False


def value_axes(
    height: int, width: int, config: CRFConfig
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns the values that each feature can take: of the spatial and the bilateral kernel."""
    x, y, colour = (np.arange(n, dtype=np.float32) for n in (width, height, 256))
    near, far = np.float32(config.spatial_sigma), np.float32(config.bilateral_sigma)
    tone = colour / np.float32(config.colour_sigma)
    return [x / near, y / near], [x / far, y / far, tone, tone, tone]


def lifted(axes: list[np.ndarray], indices: list[Any], xp: ModuleType) -> Any:
    """Lifts points given by the index of each feature's value: float32[d+1 n]."""
    total: Any = 0
    tables = permutohedral.axis_tables(axes)
    for table, index in zip(reversed(tables), reversed(indices), strict=True):
        total = total + xp.take(xp.asarray(table.T), index, axis=1)
    return total


def pixel_indices(
    height: int, width: int, colours: Any, xp: ModuleType
) -> tuple[list[Any], list[Any]]:
    """Returns the feature indices of each pixel, row by row: (x, y) and (x, y, b, g, r)."""
    y, x = (a.ravel() for a in xp.indices((height, width), dtype=np.int32))
    flat = colours.reshape(-1, 3)
    return [x, y], [x, y, flat[:, 0], flat[:, 1], flat[:, 2]]


def normaliser(total: Any) -> Any:
    """Returns n = (F(1) + 1e-20)^-1/2: kernels act as n·F(n·Q), normalised on both sides."""
    return 1 / (total + np.float32(1e-20)) ** np.float32(0.5)


def gaussian_kernel(
    axes: list[np.ndarray], indices: list[Any], weight: float, valid: Any, xp: ModuleType
) -> Any:
    """Computes w·n_i·exp(−|f_i − f_j|²/2)·n_j for all pairs, self term kept: float32[n n].

    Rows and columns of points that are not `valid` (None: all are) become 0.
    """
    distance: Any = 0
    for values, index in zip(axes, indices, strict=True):
        feature = xp.take(xp.asarray(values), index)
        distance = distance + (feature[:, None] - feature) ** 2
    kernel = xp.exp(np.float32(-0.5) * distance)
    if valid is not None:
        kernel = kernel * (valid[:, None] & valid)
    norm = normaliser(kernel.sum(axis=1))
    return np.float32(weight) * norm[:, None] * kernel * norm

"""Mean-field inference on the host: NumPy lattices, SciPy sparse products."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from openseg_jax.ops import permutohedral
from openseg_jax.ops._crf_features import (
    CRFConfig,
    gaussian_kernel,
    lifted,
    normaliser,
    pixel_indices,
    value_axes,
)
from openseg_jax.ops.permutohedral import Filter

__all__ = ["infer"]

# Above this, exp(-reach) would lose the best label, and the softmax must find its true maximum.
_SAFE_REACH = 60.0
# Spatial lattices of larger images are rebuilt rather than kept: each takes about 100 B a pixel.
_CACHED_PIXELS = 1 << 20


def infer(
    colours: np.ndarray,
    probs: np.ndarray,
    alive: np.ndarray | None,
    valid: np.ndarray | None,
    iterations: int,
    config: CRFConfig,
) -> np.ndarray:
    """Drops dead channels and padding for real, infers, and puts the rest back.

    Args:
        colours: uint8[H W 3], as the bilateral kernel shall see them.
        probs: float32[C+1 H W], background first.
        alive: bool[C] or None.
        valid: bool[H W] or None.
        iterations: mean-field updates.
        config: pairwise terms.

    Returns:
        float32[C+1 H W].
    """
    keep = np.ones(probs.shape[0], bool)
    if alive is not None:
        keep[1:] = alive
    inside = np.ones(colours.shape[:2], bool) if valid is None else valid
    out = np.zeros(probs.shape, np.float32)
    out[0] = 1
    if not inside.any():
        return out
    # Padding at the bottom and right is cut off, so that the cached spatial lattice serves.
    height = int(np.flatnonzero(inside.any(axis=1))[-1]) + 1
    width = int(np.flatnonzero(inside.any(axis=0))[-1]) + 1
    mask = inside[:height, :width]
    chosen = None if mask.all() else mask.ravel()
    select = slice(None) if chosen is None else chosen
    unary = probs[keep, :height, :width].reshape(int(keep.sum()), -1).T[select]
    logits = np.log(np.clip(unary, np.float32(1e-5), 1))
    filters = _filters(colours[:height, :width], chosen, config)
    inner = np.zeros((logits.shape[1], height * width), np.float32)
    inner[0] = 1
    inner[:, select] = _mean_field(logits, filters, iterations).T
    out[keep, :height, :width] = inner.reshape(-1, height, width)
    return out


def _mean_field(logits: np.ndarray, filters: Sequence[Filter], iterations: int) -> np.ndarray:
    """Iterates Q = softmax(logits + Σ F(Q)) on float32[n labels]."""
    n, labels = logits.shape
    # Rows of a multiple of 16 bytes make the sparse products up to 1.5 times as fast. The added
    # labels have probability 0.
    base = np.full((n, -(-labels // 4) * 4), -np.inf, np.float32)
    base[:, :labels] = logits - logits.max(axis=1, keepdims=True)
    q = np.exp(base)
    q /= np.einsum("nc->n", q)[:, None]
    if not iterations:
        return q[:, :labels]
    # Q ≤ 1, so no message exceeds F(1): subtracting that keeps exp in range without a maximum.
    reach = sum(f(np.ones((n, 1), np.float32)) for f in filters)
    safe = float(np.max(reach)) < _SAFE_REACH
    if safe:
        base -= reach
    for _ in range(iterations):
        score = filters[0](q)
        for filter_ in filters[1:]:
            score += filter_(q)
        score += base
        if not safe:
            score -= score.max(axis=1, keepdims=True)
        q = np.exp(score, out=score)
        q /= np.einsum("nc->n", q)[:, None]
    return q[:, :labels]


def _filters(colours: np.ndarray, chosen: np.ndarray | None, config: CRFConfig) -> list[Filter]:
    """Builds the two normalised, weighted filters over the chosen pixels of an image."""
    height, width = colours.shape[:2]
    groups = pixel_indices(height, width, colours, np)
    if chosen is not None:
        groups = tuple([index[chosen] for index in group] for group in groups)
    axes = value_axes(height, width, config)
    weights = (config.spatial_weight, config.bilateral_weight)
    if config.kernel == "gaussian":
        kernels = [
            gaussian_kernel(axis, group, weight, None, np)
            for axis, group, weight in zip(axes, groups, weights, strict=True)
        ]
        return [functools.partial(np.matmul, kernel) for kernel in kernels]
    bilateral = _normalised(lifted(axes[1], groups[1], np), weights[1])
    if chosen is None and height * width <= _CACHED_PIXELS:
        spatial = _spatial(height, width, config.spatial_sigma, config.spatial_weight)
    else:
        spatial = _normalised(lifted(axes[0], groups[0], np), weights[0])
    return [spatial, bilateral]


@functools.lru_cache(maxsize=4)
def _spatial(height: int, width: int, sigma: float, weight: float) -> Filter:
    """Builds the spatial filter of a whole image, which no pixel value enters."""
    config = CRFConfig(spatial_sigma=sigma)
    index: Any = pixel_indices(height, width, np.zeros((height, width, 3), np.uint8), np)[0]
    return _normalised(lifted(value_axes(height, width, config)[0], index, np), weight)


def _normalised(elevated: np.ndarray, weight: float) -> Filter:
    """Makes Q → w·n·F(n·Q) with n = F(1)^-1/2."""
    plain = permutohedral.host_filter(permutohedral.build(elevated))
    norm = normaliser(plain(np.ones((elevated.shape[1], 1), np.float32)))[:, 0]
    return permutohedral.scale_filter(plain, norm, np.float32(weight) * norm)

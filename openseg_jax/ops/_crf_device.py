"""Mean-field inference in JAX: fixed shapes, on whatever device the arrays are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
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

__all__ = ["infer"]


# An edge: called outside jit, the loop inside would otherwise be compiled anew for every image.
@functools.partial(jax.jit, static_argnames=("config", "capacity"))
def infer(
    colours: Any,
    probs: Any,
    alive: Any,
    valid: Any,
    iterations: Any,
    *,
    config: CRFConfig,
    capacity: int | None,
) -> jax.Array:
    """Infers with every label and pixel in place; dead ones are masked.

    Args:
        colours: uint8[H W 3], as the bilateral kernel shall see them.
        probs: float32[C+1 H W], background first.
        alive: bool[C].
        valid: bool[H W].
        iterations: mean-field updates; traced, so that another number compiles nothing.
        config: pairwise terms.
        capacity: room for vertices of the bilateral lattice, or None.

    Returns:
        float32[C+1 H W]; NaN where the lattice did not fit.
    """
    height, width = colours.shape[:2]
    labels = probs.shape[0]
    inside = valid.reshape(-1)
    living = jnp.append(True, alive)
    unary = jnp.log(jnp.clip(probs.reshape(labels, -1).T.astype(jnp.float32), 1e-5, 1))
    # exp(-inf) is 0: a dead label has no probability, sends no message and receives none.
    logits = jnp.where(living, unary, -jnp.inf)
    message, fits = _message(colours, inside, config, capacity)

    def update(_: Any, q: jax.Array) -> jax.Array:
        return jax.nn.softmax(logits + message(q), axis=-1)

    q = jax.lax.fori_loop(0, iterations, update, jax.nn.softmax(logits, axis=-1))
    q = jnp.where(fits, q, jnp.nan)
    background = jnp.arange(labels) == 0
    q = jnp.where(inside[:, None], q, background.astype(q.dtype))
    return q.T.reshape(labels, height, width)


def _message(
    colours: Any, inside: Any, config: CRFConfig, capacity: int | None
) -> tuple[Callable[[jax.Array], jax.Array], Any]:
    """Returns Q → Σ_m w·n·F(n·Q), and whether every lattice fits its capacity."""
    height, width = colours.shape[:2]
    # Without the barrier XLA folds the spatial lattice, sort and all, in its slow interpreter.
    groups = jax.lax.optimization_barrier(pixel_indices(height, width, colours, jnp))
    axes = value_axes(height, width, config)
    weights = (config.spatial_weight, config.bilateral_weight)
    if config.kernel == "gaussian":
        kernel = sum(
            gaussian_kernel(axis, group, weight, inside, jnp)
            for axis, group, weight in zip(axes, groups, weights, strict=True)
        )
        product = functools.partial(jnp.matmul, kernel, precision=jax.lax.Precision.HIGHEST)
        return product, jnp.asarray(True)
    filters, fits = [], jnp.asarray(True)
    for axis, group, weight, room in zip(axes, groups, weights, (None, capacity), strict=True):
        bounds = permutohedral.table_bounds(permutohedral.axis_tables(axis))
        lattice = permutohedral.build_device(
            lifted(axis, group, jnp), bounds, valid=inside, capacity=room
        )
        ones = jnp.ones((height * width, 1), jnp.float32)
        norm = normaliser(permutohedral.device_filter(lattice, ones))
        filters.append((lattice, norm, np.float32(weight) * norm))
        fits &= lattice.count <= lattice.capacity

    def message(q: jax.Array) -> jax.Array:
        total = jnp.zeros_like(q)
        for lattice, before, after in filters:
            total += after * permutohedral.device_filter(lattice, before * q)
        return total

    return message, fits

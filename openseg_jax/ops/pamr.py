"""Pixel-adaptive mask refinement: masks flow between neighbours of like colour.

Each turn replaces a mask's value at a pixel by a weighted mean over neighbours: the 8 around it at
each of several distances. Weights are a softmax over these neighbours of

    k = − mean over R, G, B of |x − x'| / (0.1 σ + 1e-8)

with σ the standard deviation of the colour around the pixel. Nothing is learned. Against the dense
CRF it is cheap, runs on any device, and is differentiable, but its reach is that of its distances
times its turns, and masks only spread: no term says that labels should agree.

Source: Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020,
on PAMR; 10 turns at distances 1, 2, 4, 8, 12 and 24 as there and in TCL (Cha et al., CVPR 2023).
What the paper leaves open, or its code does otherwise, is as in the code, because published tables
come from it:

- the paper divides by σ², which depends on the scale of colours; the code by 0.1 σ, which does not;
- σ pools the 3×3 windows of all distances, the centre once in each, and divides by n − 1;
- the softmax leaves the centre out: a pixel counts only through its neighbours;
- beyond an edge lies the nearest pixel of the edge, in images and masks. `valid` moves that edge
  to where a picture on a larger canvas ends, so that padding never counts.

Other pieces of published code resize masks to the image first (bilinear, corners aligned). Here
both have one size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from openseg_jax.errors import describe, expected
from openseg_jax.types import Array, Bool, Float, UInt8

__all__ = ["DILATIONS", "affinity", "pamr", "spread"]

DILATIONS = (1, 2, 4, 8, 12, 24)
"""Distances of neighbours, pixels."""

_AROUND = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))
_SHARE, _FLOOR = 0.1, 1e-8


def pamr(
    image: UInt8[Array, "*B H W 3"] | Float[Array, "*B H W 3"],
    masks: Float[Array, "*B K H W"],
    valid: Bool[Array, "*B H W"] | None = None,
    *,
    iterations: int = 10,
    dilations: Sequence[int] = DILATIONS,
) -> Float[Array, "*B K H W"]:
    """Refines soft masks by the colours of their image.

    Differentiable in both; works under `jax.jit` and `jax.vmap`. Beside masks it holds 8 numbers
    a distance and pixel, whatever K is, for gradients also the masks of each turn.

    Args:
        image: colours on any scale, bytes or floats; only ratios of differences count.
        masks: values at pixels. Channels do not meet: their sum stays 1 where it is.
        valid: pixels that exist, a rectangle at the top left; None means all.
        iterations: turns, 0 or more.
        dilations: distances of neighbours, pixels.

    Returns:
        Float32[*B K H W] within the range of the masks; 0 where not valid.

    Raises:
        UserError: for arguments of other shapes, or settings out of range.
    """
    weights = affinity(image, valid, dilations=dilations)
    return spread(weights, masks, valid, iterations=iterations, dilations=dilations)


def affinity(
    image: UInt8[Array, "*B H W 3"] | Float[Array, "*B H W 3"],
    valid: Bool[Array, "*B H W"] | None = None,
    *,
    dilations: Sequence[int] = DILATIONS,
) -> Float[Array, "*B D 8 H W"]:
    """Weighs the neighbours of each pixel; float32, summing to 1 over distances and neighbours.

    Args:
        image, valid, dilations: see `pamr`.
    """
    if image.ndim < 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise expected("image", "pixels [... H W 3]", describe(image), "give RGB, channels last")
    _check(image.shape[:-1], valid, dilations)
    run = functools.partial(_affinity, dilations=tuple(dilations))
    return _batched(run, (image, 3), (valid, 2))


def spread(
    weights: Float[Array, "*B D 8 H W"],
    masks: Float[Array, "*B K H W"],
    valid: Bool[Array, "*B H W"] | None = None,
    *,
    iterations: int = 10,
    dilations: Sequence[int] = DILATIONS,
) -> Float[Array, "*B K H W"]:
    """Averages masks by weights that are already known, e.g. some channels at a time.

    Args:
        weights: from `affinity` with the same `valid` and `dilations`.
        masks, valid, iterations, dilations: see `pamr`.
    """
    sizes = (*masks.shape[:-3], *masks.shape[-2:])
    want = (*sizes[:-2], len(dilations), len(_AROUND), *sizes[-2:])
    if masks.ndim < 3 or weights.shape != want:
        raise expected(
            "masks", "[... K H W] of the size of their image and its weights for these distances",
            f"{describe(masks)} and weights {describe(weights)}", "resize masks to the image",
        )  # fmt: skip
    _check(sizes, valid, dilations)
    if iterations < 0:
        raise expected("iterations", "0 or more", str(iterations), "10 is usual")
    run = functools.partial(_spread, iterations=iterations, dilations=tuple(dilations))
    return _batched(run, (weights, 4), (masks, 3), (valid, 2))


def _affinity(image: Any, valid: Any, dilations: tuple[int, ...]) -> Array:
    colours = jnp.moveaxis(jnp.asarray(image, jnp.float32), -1, 0)
    shifted = _shifts(colours, valid, max(dilations))
    steps = jnp.asarray(dilations, jnp.int32)

    # Differences to the centre have the deviation of the colours themselves, without the loss of
    # digits that a large common value costs.
    def count(sums: Any, step: Array) -> Any:
        each = [x - colours for x in shifted(step)]
        return (sums[0] + sum(each), sums[1] + sum(x * x for x in each)), None

    nothing = jnp.zeros_like(colours)
    (first, second), _ = jax.lax.scan(jax.checkpoint(count), (nothing, nothing), steps)
    samples = 9 * len(dilations)
    variance = jnp.maximum((second - first * first / samples) / (samples - 1), 0)
    # The root of 0 has no finite slope: colours that are all the same get none.
    varied = variance > 0
    deviation = jnp.where(varied, jnp.sqrt(jnp.where(varied, variance, 1)), 0)
    scale = 1 / (_FLOOR + _SHARE * deviation)

    def compare(_: None, step: Array) -> Any:
        each = [-(_distance(x - colours) * scale).mean(axis=0) for x in shifted(step)]
        return None, jnp.stack(each)

    _, likeness = jax.lax.scan(jax.checkpoint(compare), None, steps)
    return jax.nn.softmax(likeness, axis=(0, 1))


def _distance(x: Array) -> Array:
    """|x|, whose slope at 0 is 0: that of `jnp.abs` is 1, and equal colours are common."""
    return jax.lax.stop_gradient(jnp.sign(x)) * x


def _spread(
    weights: Any, masks: Any, valid: Any, iterations: int, dilations: tuple[int, ...]
) -> Array:
    steps = jnp.asarray(dilations, jnp.int32)

    def turn(masks: Array, _: None) -> Any:
        shifted = _shifts(masks, valid, max(dilations))

        def gather(total: Array, step: Any) -> Any:
            step, weights = step
            return total + sum(w * x for w, x in zip(weights, shifted(step), strict=True)), None

        # One distance after the other: all 48 terms in one loop take three times as long.
        total, _ = jax.lax.scan(jax.checkpoint(gather), jnp.zeros_like(masks), (steps, weights))
        return total, None

    # Turns are redone for gradients, or each would keep all its shifted masks.
    masks = jnp.asarray(masks, jnp.float32)
    masks, _ = jax.lax.scan(jax.checkpoint(turn), masks, None, length=iterations)
    return masks if valid is None else jnp.where(valid, masks, 0)


def _shifts(x: Array, valid: Any, reach: int) -> Callable[[Array], list[Array]]:
    """Extends [C H W] by its own edge, and returns what gives its 8 shifts by a distance."""
    height, width = x.shape[1:]
    sides: Any = (height, width)
    if valid is not None:
        sides = (valid.any(axis=1).sum(), valid.any(axis=0).sum())
    for axis, (length, true) in enumerate(zip((height, width), sides, strict=True), start=1):
        inside = jnp.clip(jnp.arange(-reach, length + reach), 0, jnp.maximum(true, 1) - 1)
        x = jnp.take(x, inside, axis=axis)

    def shifted(step: Array) -> list[Array]:
        return [
            jax.lax.dynamic_slice(
                x, (0, reach + down * step, reach + right * step), (x.shape[0], height, width)
            )
            for down, right in _AROUND
        ]

    return shifted


def _check(sizes: tuple[int, ...], valid: Any, dilations: Sequence[int]) -> None:
    if valid is not None and valid.shape != sizes:
        raise expected("valid", f"bool{list(sizes)}", describe(valid), "give one flag a pixel")
    if not dilations or min(dilations) < 1:
        raise expected("dilations", "distances of 1 or more", str(dilations), f"try {DILATIONS}")


def _batched(run: Callable[..., Array], *arrays: tuple[Any, int]) -> Array:
    """Maps over leading axes; each array comes with the number of axes it has without them."""
    for _ in range(arrays[0][0].ndim - arrays[0][1]):
        axes = tuple(None if x is None else 0 for x, _ in arrays)
        run = jax.vmap(run, in_axes=axes)
    return run(*(x for x, _ in arrays))

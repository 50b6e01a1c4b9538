"""Pictures that tasks draw on the devices: heat maps of numbers, regions painted over images."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from openseg_jax.types import Array, Float, Int, UInt8
from openseg_jax.viz import palette

_COLD, _HOT = np.array([255.0, 255.0, 255.0], np.float32), np.array([0.0, 114.0, 178.0], np.float32)


def heat(values: Float[Array, "*B h w"], factor: int = 16) -> UInt8[Array, "*B H W 3"]:
    """Draws numbers from white, the least, to blue, the greatest, each as a square.

    Args:
        values: each map is scaled by itself; a constant one is white.
        factor: pixels a side of a square.
    """
    low = values.min(axis=(-2, -1), keepdims=True)
    spread = values.max(axis=(-2, -1), keepdims=True) - low
    share = (values - low) / jnp.where(spread > 0, spread, 1.0)
    colours = _COLD + share[..., None] * (_HOT - _COLD)
    pixels = jnp.round(colours).astype(jnp.uint8)
    return jnp.repeat(jnp.repeat(pixels, factor, axis=-3), factor, axis=-2)


def painted(
    image: UInt8[Array, "B H W 3"], labels: Int[Array, "B h w"], count: int, alpha: float = 0.5
) -> UInt8[Array, "B H W 3"]:
    """Paints a map of labels over its image, in the palette of `viz`.

    Args:
        image: RGB.
        labels: 0 is left as it is; enlarged to the image by the nearest.
        count: labels that there are at most, 0 not counted.
        alpha: share of the colour.
    """
    height, width = image.shape[1:3]
    rows = np.arange(height) * labels.shape[1] // height
    columns = np.arange(width) * labels.shape[2] // width
    whole = labels[:, rows[:, None], columns[None]]
    colours = jnp.asarray(palette(count + 1), jnp.float32)[whole]
    mixed = (1.0 - alpha) * image.astype(jnp.float32) + alpha * colours
    return jnp.where(whole[..., None] > 0, jnp.round(mixed).astype(jnp.uint8), image)

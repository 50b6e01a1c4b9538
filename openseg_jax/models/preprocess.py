"""Pictures as a tower expects them, by the rule that travels with its weights."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from openseg_jax.models.variants import Preprocess
from openseg_jax.ops import resize
from openseg_jax.ops.resize_tf import resize_tf, to_dtype
from openseg_jax.ops.resize_uint8 import resize_on_host
from openseg_jax.types import Array, Float, UInt8


def fit_image(image: UInt8[np.ndarray, "H W 3"], rule: Preprocess) -> UInt8[np.ndarray, "S S 3"]:
    """Resizes a picture of any shape to the square of a tower, on the host.

    Args:
        image: RGB.
        rule: says whether the short side is fitted and the centre cut out (CLIP) or both sides are
            squashed (SigLIP), and with which kernel.

    Returns:
        whole grey levels, as every rule that we know wants them; not yet scaled.

    Source: OpenAI's `_transform`, Pillow's bicubic; where the rule has no antialias, big_vision's
    `resize`: TensorFlow's kernel, cut back to whole levels by truncation.
    """
    size, side = (image.shape[0], image.shape[1]), rule.size
    whole = (side, side) if rule.resize == "squash" else resize.short_side_size(size, side)
    rows, columns = (resize.crop_rows(length, side) for length in whole)
    if rule.antialias:
        return resize_on_host(image, whole, rule.interpolation)[rows, columns]
    return to_dtype(resize_tf(image, whole, rule.interpolation), np.dtype(np.uint8))[rows, columns]


def scale_pixels(image: UInt8[Array, "*B H W 3"], rule: Preprocess) -> Float[Array, "*B H W 3"]:
    """Scales grey levels to what the image tower expects, float32."""
    mean, std = (np.array(v, np.float32) for v in (rule.mean, rule.std))
    return (image.astype(jnp.float32) - 255.0 * mean) * (1.0 / (255.0 * std))

"""Random resized crops, as image-text training and self-supervision draw them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from PIL import Image

from openseg_jax.types import UInt8

_TRIES = 10


@dataclasses.dataclass(frozen=True)
class Crop:
    """A box of whole pixels in a picture.

    Attributes:
        top, left, height, width: the box, pixels.
        size: (H, W) of the picture.
    """

    top: int
    left: int
    height: int
    width: int
    size: tuple[int, int]

    @property
    def fractions(self) -> tuple[float, float, float, float]:
        """(x0, y0, x1, y1) over the picture's sides, as SegCLIP hands crops to superpixels.

        Of the sides less one: the first and the last pixel are 0 and 1, as published.
        """
        height, width = (max(side - 1, 1) for side in self.size)
        return (
            self.left / width,
            self.top / height,
            (self.left + self.width - 1) / width,
            (self.top + self.height - 1) / height,
        )


def random_crop(
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Crop:
    """Draws a box by share of area and aspect ratio.

    Args:
        rng: source of chance.
        size: (H, W) of the picture, pixels.
        scale: least and greatest share of the area; (1, 1) gives the largest centred square.
        ratio: least and greatest width over height, uniform in the logarithm.
    Returns:
        the box; when ten draws do not fit, the largest centred one of an allowed ratio.
    Source:
        torchvision's RandomResizedCrop, which SegCLIP uses.
    """
    height, width = size
    if scale == (1.0, 1.0):
        side = min(size)
        return Crop((height - side) // 2, (width - side) // 2, side, side, size)
    for _ in range(_TRIES):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return Crop(top, left, h, w, size)
    aspect = min(max(width / height, ratio[0]), ratio[1])
    h, w = min(height, round(width / aspect)), min(width, round(height * aspect))
    h, w = max(h, 1), max(w, 1)
    return Crop((height - h) // 2, (width - w) // 2, h, w, size)


def resize_crop(
    image: UInt8[np.ndarray, "H W 3"] | Image.Image, crop: Crop, size: int
) -> UInt8[np.ndarray, "S S 3"]:
    """Cuts out a box and resizes it to a square, antialiased bicubic (Pillow's)."""
    # Cut first: Pillow's `box` would let pixels outside of it into the border's average.
    if isinstance(image, Image.Image):
        box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
        picture = image.crop(box)
    else:
        part = image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        picture = Image.fromarray(np.ascontiguousarray(part))
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))

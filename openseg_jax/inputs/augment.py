"""Random views of a picture and its label map, as MaskFormer's family trains on them.

Host code: NumPy and Pillow. Source: maft.md §3.3; the order is resize, crop, colour, flip, pad.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from openseg_jax.errors import expected
from openseg_jax.types import Int, UInt8

__all__ = ["IGNORE", "Views", "jitter_colours"]

IGNORE = -1
"""Label of pixels that no loss may see, padding included."""

_GREY = 128


@dataclasses.dataclass(frozen=True)
class Views:
    """How training views are drawn.

    Attributes:
        crop: side of the view, pixels.
        short_sides: sizes, one of which the short side is resized to; () keeps the picture's.
        long_side: bound on the long side after resizing.
        flip: chance of swapping left and right.
        colours: whether colours vary, see `jitter_colours`.
    """

    crop: int = 640
    short_sides: tuple[int, ...] = tuple(range(320, 961, 64))
    long_side: int = 2560
    flip: float = 0.5
    colours: bool = True

    def draw(
        self,
        rng: np.random.Generator,
        image: UInt8[np.ndarray, "H W 3"],
        labels: Int[np.ndarray, "H W"],
    ) -> tuple[UInt8[np.ndarray, "S S 3"], Int[np.ndarray, "S S"]]:
        """Draws one view.

        Args:
            rng: source of chance.
            image: the picture.
            labels: class of each pixel, or `IGNORE`.

        Returns:
            Both at crop×crop. Where the picture is smaller, it lies at the top left and the rest
            is grey 128 and `IGNORE`.

        Raises:
            UserError: when the sizes differ.
        """
        if image.shape[:2] != labels.shape:
            raise expected(
                "labels", f"the picture's size {image.shape[:2]}", f"{labels.shape}",
                "give label maps of the pictures' own size",
            )  # fmt: skip
        if self.short_sides:
            short = self.short_sides[int(rng.integers(len(self.short_sides)))]
            image, labels = _resized(image, labels, short, self.long_side)
        height, width = (min(self.crop, side) for side in labels.shape)
        top = int(rng.integers(labels.shape[0] - height + 1))
        left = int(rng.integers(labels.shape[1] - width + 1))
        image = image[top : top + height, left : left + width]
        labels = labels[top : top + height, left : left + width]
        if self.colours:
            image = jitter_colours(rng, image)
        if rng.random() < self.flip:
            image, labels = image[:, ::-1], labels[:, ::-1]
        pad = ((0, self.crop - height), (0, self.crop - width))
        image = np.pad(image, (*pad, (0, 0)), constant_values=_GREY)
        return image, np.pad(labels, pad, constant_values=IGNORE)


def _resized(
    image: np.ndarray, labels: np.ndarray, short: int, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Resizes so that the short side is `short`, or the long one `limit` if that is less."""
    scale = min(short / min(labels.shape), limit / max(labels.shape))
    height, width = (max(int(side * scale + 0.5), 1) for side in labels.shape)
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    # Pillow resizes 32-bit labels by the nearest neighbour as they are.
    plane = Image.fromarray(labels.astype(np.int32))
    return np.asarray(picture), np.asarray(plane.resize((width, height), Image.Resampling.NEAREST))


def jitter_colours(
    rng: np.random.Generator, image: UInt8[np.ndarray, "H W 3"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Varies brightness (±32), contrast (½ to 1½), saturation (½ to 1½) and hue (±36°).

    Each with a chance of ½; contrast comes before or after saturation and hue, with even chances.

    Source: SSD (Liu et al. 2016) §2.2 as detectron2 applies it. Hue is turned in Pillow's 256
    steps where OpenCV has 180.
    """

    def line(image: np.ndarray, gain: float = 1.0, offset: float = 0.0) -> np.ndarray:
        return np.clip(image.astype(np.float32) * gain + offset, 0, 255).astype(np.uint8)

    def contrast(image: np.ndarray) -> np.ndarray:
        return line(image, gain=rng.uniform(0.5, 1.5)) if rng.random() < 0.5 else image

    if rng.random() < 0.5:
        image = line(image, offset=rng.uniform(-32, 32))
    first = rng.random() < 0.5
    image = contrast(image) if first else image
    gain = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    turn = int(rng.integers(-18, 19)) if rng.random() < 0.5 else 0
    if gain != 1.0 or turn:
        hue = np.array(Image.fromarray(np.ascontiguousarray(image)).convert("HSV"))
        hue[..., 0] = (hue[..., 0].astype(np.int32) + round(turn * 256 / 180)) % 256
        hue[..., 1] = line(hue[..., 1], gain=gain)
        image = np.asarray(Image.fromarray(hue, "HSV").convert("RGB"))
    return image if first else contrast(image)

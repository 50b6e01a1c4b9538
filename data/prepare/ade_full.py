"""ADE20K's full annotation: class numbers from colours, and the size at which it is evaluated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from openseg_jax.data.prepare.base import cannot_be_read
from PIL import Image

from openseg_jax.errors import UserError, expected
from openseg_jax.ops.resize_cv2 import cv2_taps, resize_window
from openseg_jax.types import Int, UInt8

__all__ = ["OBJECTS", "SHORT_SIDE", "class_numbers", "read_colours", "shrink", "small_size"]

OBJECTS = 3688
"""Names in the index of ADE20K_2021_17_01; no picture has a greater class number."""

SHORT_SIDE = 512


def read_colours(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """Reads a `*_seg.png`.

    Raises:
        UserError: for a file that is missing, damaged, or no picture in 8-bit colours.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("RGB", "RGBA"):
                raise expected(
                    str(path), "a picture in colours", f"mode {picture.mode}",
                    "name the archive's own *_seg.png; label maps are another data set's",
                )  # fmt: skip
            return np.asarray(picture)[..., :3]
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError) as error:
        raise cannot_be_read(path, error) from error


def class_numbers(colours: UInt8[np.ndarray, "H W 3"]) -> Int[np.ndarray, "H W"]:
    """Finds the class number of each pixel: ⌊R / 10⌋·256 + G; B tells instances apart.

    Returns:
        Int32[H W]: 0 where nothing is annotated, else 1 + the place in the index's names.

    Raises:
        UserError: for numbers beyond the index: another picture, or one that was recoloured.

    Source: ADE20K's own loader.
    """
    numbers = (colours[..., 0] // 10).astype(np.int32) * 256 + colours[..., 1]
    if numbers.max(initial=0) > OBJECTS:
        raise expected(
            "colours", f"class numbers up to {OBJECTS}", str(numbers.max()),
            "the file is no segmentation of ADE20K_2021_17_01, or was saved with other colours",
        )  # fmt: skip
    return numbers


def small_size(size: tuple[int, int]) -> tuple[int, int]:
    """Computes the size at which A-847 is evaluated: a short side of at most 512 pixels.

    Source: MaskFormer's preparation; the long side is rounded half to even.
    """
    height, width = size
    if min(size) <= SHORT_SIDE:
        return size
    if width >= height:
        return SHORT_SIDE, round(width / float(height) * SHORT_SIDE)
    return round(height / float(width) * SHORT_SIDE), SHORT_SIDE


def shrink(
    image: UInt8[np.ndarray, "H W 3"], labels: Int[np.ndarray, "H W"]
) -> tuple[UInt8[np.ndarray, "h w 3"], Int[np.ndarray, "h w"]]:
    """Brings a picture and its labels to `small_size`: bilinear, and the nearest pixel.

    Source: MaskFormer's preparation, which uses OpenCV's resize. Its "nearest" takes the pixel at
        ⌊place · in / out⌋.
    """
    before = (image.shape[0], image.shape[1])
    after = small_size(before)
    if after == before:
        return image, labels
    rows, columns = (
        cv2_taps(np.arange(after[axis]), before[axis], after[axis], rows=axis == 0)
        for axis in (0, 1)
    )
    nearest = [
        np.minimum(np.floor(np.arange(n) * (1.0 / (n / m))), m - 1).astype(np.int64)
        for n, m in zip(after, before, strict=True)
    ]
    return np.asarray(resize_window(image, rows, columns)), labels[np.ix_(*nearest)]

"""Windows over an image: how large it is worked on, where they lie, their pixels, and the way back.

All lengths may be Python ints or traced numbers: an image that fills only a part of its canvas
then gives what it gives alone.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.errors import expected
from openseg_jax.models.variants import VisionConfig
from openseg_jax.ops.resize_cv2 import cv2_taps, resize_window
from openseg_jax.types import Array, Float, UInt8

__all__ = [
    "MODES", "Plan", "back", "cut_windows", "make_plan", "pixels_at", "start", "window_count",
    "window_starts",
]  # fmt: skip

MODES = ("slide", "whole")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes of one model and configuration, in pixels; hashable.

    Attributes:
        patch: of the model. crop, stride: of the windows. short, long: of the resized image.
        whole: one window of the whole image instead.
    """

    patch: int
    crop: int
    stride: int
    short: int
    long: int
    whole: bool

    @property
    def most_windows(self) -> int:
        """Windows of the longest image there can be."""
        return max(-(-(self.long - self.crop) // self.stride), 0) + 1

    def work_size(self, height: Any, width: Any) -> tuple[Any, Any]:
        """Returns (h, w) of an image after resizing; for traced numbers too.

        The short side becomes `short` unless the long one would exceed `long`; sides round half
        up. In whole mode they become multiples of the patch, so that no pixel is dropped.

        Source: mmseg's `Resize(img_scale=(long, short), keep_ratio=True)`.
        """
        if isinstance(height, int) and isinstance(width, int):
            low, high = min(height, width), max(height, width)
            up, down = (self.short, low) if self.short * high <= self.long * low else \
                (self.long, high)  # fmt: skip
            size = [(2 * side * up + down) // (2 * down) for side in (height, width)]
            if self.whole:
                size = [max(round(s / self.patch), 1) * self.patch for s in size]
            return max(size[0], 1), max(size[1], 1)
        low, high = jnp.minimum(height, width), jnp.maximum(height, width)
        fits = self.short * high <= self.long * low
        up, down = jnp.where(fits, self.short, self.long), jnp.where(fits, low, high)
        sides = ((2 * side * up + down) // (2 * down) for side in (height, width))
        h, w = (jnp.maximum(side, 1) for side in sides)
        return h, w


def make_plan(
    vision: VisionConfig,
    *,
    mode: str = "slide",
    crop: int = 0,
    stride: int = 0,
    short_side: int = 0,
    long_side: int = 2048,
) -> Plan:
    """Fills the sizes that a configuration leaves to the model.

    Args:
        vision: of the model.
        mode: "slide" for windows, or "whole" for the image at once.
        crop, stride: of the windows, pixels; 0 takes the model's image size, and the crop.
        short_side: of the resized image, pixels; 0 takes the crop.
        long_side: its upper limit, pixels.

    Raises:
        UserError: for a crop that is not a multiple of the patch, or a stride beyond it.
    """
    crop = crop or vision.image_size
    stride, short = stride or crop, short_side or crop
    if crop % vision.patch_size:
        raise expected(
            "crop", f"a multiple of the patch of {vision.patch_size} pixels", str(crop), "round it"
        )
    if stride > crop:
        raise expected("stride", f"at most the crop of {crop}", str(stride), "leave no gaps")
    if long_side < short:
        raise expected("long_side", f"at least {short}", str(long_side), "enlarge it")
    return Plan(vision.patch_size, crop, stride, short, long_side, mode == "whole")


def window_count(plan: Plan, work: Any) -> Any:
    """Counts the windows along an axis of `work` pixels."""
    over = work - plan.crop + plan.stride - 1
    if isinstance(work, int):
        return 1 if plan.whole else max(over, 0) // plan.stride + 1
    return jnp.maximum(over, 0) // plan.stride + 1


def start(plan: Plan, index: Any, work: Any) -> Any:
    """Returns where a window begins; the last is shifted back inside the image."""
    if isinstance(index, int) and isinstance(work, int):
        return min(index * plan.stride, max(work - plan.crop, 0))
    return jnp.minimum(index * plan.stride, jnp.maximum(work - plan.crop, 0))


def pixels_at(
    image: UInt8[Array, "H W 3"],
    size: tuple[Any, Any],
    work: tuple[Any, Any],
    at: tuple[Any, Any],
    side: tuple[int, int],
) -> UInt8[Array, "h w 3"]:
    """Reads a window of the resized image, without making the whole of it.

    Args:
        image: bytes; only its true part is read.
        size: (H, W) of the true part. work: of the resized image.
        at: (row, column) where the window begins in the resized image.
        side: (h, w) of the window, static. Where the resized image is smaller than that, its
            last row or column is repeated.
    """
    taps = []
    for axis in range(2):
        n: Any = np if isinstance(at[axis], int) else jnp
        places = n.clip(at[axis] + np.arange(side[axis]), 0, work[axis] - 1)
        taps.append(cv2_taps(places, size[axis], work[axis], rows=axis == 0))
    return resize_window(image, *taps)


def window_starts(plan: Plan, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Lists where the windows of an image of `size` begin, row by row."""
    work = plan.work_size(*size)
    each = [[start(plan, i, n) for i in range(window_count(plan, n))] for n in work]
    return [(y, x) for y in each[0] for x in each[1]]


def cut_windows(plan: Plan, image: UInt8[Array, "B H W 3"]) -> UInt8[Array, "B N h w 3"]:
    """Resizes images that fill their canvas, and cuts all their windows."""
    size = (image.shape[1], image.shape[2])
    work = plan.work_size(*size)
    whole = jax.vmap(lambda x: pixels_at(x, size, work, (0, 0), work))(image)
    side, cuts = work if plan.whole else (plan.crop, plan.crop), []
    for y, x in window_starts(plan, size):
        rows = np.clip(y + np.arange(side[0]), 0, work[0] - 1)
        columns = np.clip(x + np.arange(side[1]), 0, work[1] - 1)
        cuts.append(whole[:, rows][:, :, columns])
    return jnp.stack(cuts, axis=1)


def back(
    plan: Plan, canvas: int, size: Any, work: Any, at: Any, side: int
) -> Float[Array, "canvas side"]:
    """Builds the matrix from a window's axis to the image's: bilinear, averaged where they overlap.

    The sum of all windows' matrices is the half-pixel matrix without antialias from `work` to
    `size`; rows beyond `size` mean nothing.

    Source: torch `interpolate(bilinear, align_corners=False)` of the averaged score maps.
    """
    plain = all(isinstance(x, int) for x in (size, work, at))
    n: Any = np if plain else jnp
    positions = n.clip((n.arange(canvas) + 0.5) * (work / size) - 0.5, 0, work - 1)
    places = at + n.arange(side)
    weights = n.maximum(1.0 - n.abs(positions[:, None] - places[None, :]), 0.0)
    if plan.whole:
        return weights.astype(np.float32)
    count = window_count(plan, work)
    numbers = n.arange(count if isinstance(count, int) else plan.most_windows)
    begins = n.minimum(numbers * plan.stride, n.maximum(work - plan.crop, 0))
    after = places[:, None] - begins
    covering = ((after >= 0) & (after < plan.crop) & (numbers < count)).sum(axis=1)
    return (weights / n.maximum(covering, 1)).astype(np.float32)

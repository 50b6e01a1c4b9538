"""Pillow's resize of 8-bit images, bit for bit, on the device.

Pillow 13 began to run the vertical pass first where the height shrinks much more than the width,
which changes a quarter of the bytes. Published results come from older versions, so both functions
here always run the horizontal pass first.

Pillow multiplies bytes with integer coefficients of 22 fractional bits, and rounds to a byte
after the horizontal pass and again after the vertical one. Both passes are matrix products, so
they run on an accelerator: every coefficient is cut into three signed 8-bit digits, which makes
each product exact even in bfloat16 inputs with float32 sums, and the digits are put together
again in int32.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from openseg_jax.errors import UserError, check_shape
from openseg_jax.ops import resize
from openseg_jax.types import Array, Float, Int, UInt8

__all__ = ["BytePair", "byte_pair", "clip_pair", "digits", "resize_bytes", "resize_on_host"]

_FRACTION_BITS = 22
_DIGITS = 3
# Largest absolute digit is 128, a byte is at most 255: 512 taps stay below 2**24.
_MAX_TAPS = 512


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BytePair:
    """The two passes of one resize, as digits: a pytree, so it can be an argument of a jit.

    Attributes:
        rows: Float32[3 H h], small integers, lowest digit first.
        columns: Float32[3 W w].
    """

    rows: Float[Array, "3 H h"]
    columns: Float[Array, "3 W w"]


def digits(weights: Float[np.ndarray, "out in"]) -> Float[np.ndarray, "3 out in"]:
    """Cuts Pillow's integer coefficients into signed base-256 digits.

    Args:
        weights: float64 matrix from `resize.pil`.

    Returns:
        Float32[3 out in]: c0 + 256·c1 + 65536·c2 is the coefficient times 2**22, digits in
        [-128, 128].

    Raises:
        UserError: if a row has so many taps that a float32 sum could be inexact.
    """
    if (weights != 0).sum(axis=1).max() > _MAX_TAPS:
        raise UserError("weights: expected at most 512 taps a row; shrink in two steps")
    left = np.trunc(weights * (1 << _FRACTION_BITS) + np.where(weights < 0, -0.5, 0.5))
    left = left.astype(np.int64)
    out = np.empty((_DIGITS, *weights.shape), np.float32)
    for i in range(_DIGITS - 1):
        digit = (left + 128) % 256 - 128
        out[i], left = digit, (left - digit) // 256
    out[-1] = left
    return out


def byte_pair(
    in_size: tuple[int, int],
    out_size: tuple[int, int],
    method: str = "bicubic",
    *,
    canvas: tuple[int, int] | None = None,
    out_canvas: tuple[int, int] | None = None,
) -> BytePair:
    """Builds the passes of a plain Pillow resize.

    Args:
        in_size: true (h, w) of the image.
        out_size: (H, W).
        method: "bicubic" or "bilinear".
        canvas: padded size of the input, when the image sits at the top left of a canvas.
        out_canvas: padded size of the output; pixels beyond `out_size` come out as 0.
    """
    return _pair(in_size, out_size, (slice(None), slice(None)), method, canvas, out_canvas)


def clip_pair(
    in_size: tuple[int, int],
    side: int,
    method: str = "bicubic",
    *,
    canvas: tuple[int, int] | None = None,
) -> BytePair:
    """Builds CLIP's preprocessing: short side to `side`, then the centre `side` x `side`.

    Args:
        in_size: true (h, w) of the image.
        side: output side in pixels.
        method: "bicubic" or "bilinear".
        canvas: padded size of the input, when the image sits at the top left of a canvas.
    """
    whole = resize.short_side_size(in_size, side)
    crops = (resize.crop_rows(whole[0], side), resize.crop_rows(whole[1], side))
    return _pair(in_size, whole, crops, method, canvas, None)


def _pair(
    in_size: tuple[int, int],
    out_size: tuple[int, int],
    crops: tuple[slice, slice],
    method: str,
    canvas: tuple[int, int] | None,
    out_canvas: tuple[int, int] | None,
) -> BytePair:
    passes = []
    for i in range(2):
        weights = resize.pil(in_size[i], out_size[i], method)[crops[i]]
        rows = out_canvas[i] if out_canvas else weights.shape[0]
        columns = canvas[i] if canvas else in_size[i]
        passes.append(digits(resize.pad_matrix(weights, rows, columns)))
    return BytePair(rows=passes[0], columns=passes[1])


def _round_to_byte(parts: Float[Array, "3 ..."]) -> Int[Array, "..."]:
    low, middle, high = (part.astype(jnp.int32) for part in parts)
    total = low + (middle << 8) + (high << 16) + (1 << (_FRACTION_BITS - 1))
    return jnp.clip(total >> _FRACTION_BITS, 0, 255)


def resize_bytes(image: UInt8[Array, "*B h w D"], pair: BytePair) -> UInt8[Array, "*B H W D"]:
    """Resizes 8-bit images as Pillow does, exactly.

    Args:
        image: bytes, channels last, of the (canvas) size that the pair was made for.
        pair: from `byte_pair` or `clip_pair`.

    Returns:
        UInt8[*B H W D], equal to Pillow's result in every byte.

    Source: Pillow's ImagingResample: columns first, a byte between the passes.
    """
    # No precision is asked for: bytes and digits are exact in bfloat16, sums in float32.
    x = image.astype(jnp.float32)
    x = _round_to_byte(jnp.einsum("...hwd,pWw->p...hWd", x, pair.columns))
    x = jnp.einsum("...hwd,pHh->p...Hwd", x.astype(jnp.float32), pair.rows)
    return _round_to_byte(x).astype(jnp.uint8)


def resize_on_host(
    image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int], method: str = "bicubic"
) -> UInt8[np.ndarray, "H W 3"]:
    """Resizes one 8-bit image through Pillow itself, horizontally and then vertically.

    Two calls, because the order of the passes in one call depends on Pillow's version.

    Args:
        image: UInt8[h w 3].
        size: (H, W).
        method: "bicubic" or "bilinear".

    Returns:
        UInt8[H W 3].
    """
    check_shape(image, "h w 3", "image", dtype="uint8")
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    wide = Image.fromarray(image).resize((size[1], image.shape[0]), filters[method])
    return np.asarray(wide.resize((size[1], size[0]), filters[method]))

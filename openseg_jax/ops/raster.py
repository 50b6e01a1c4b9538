"""Outlines of ellipses and rectangles, pixel for pixel as OpenCV 4 draws them, on the device.

OpenCV turns an ellipse into a polygon of at most 73 vertices in 16.16 fixed point, clips each side
to the image (Cohen-Sutherland) and walks along its longer axis. The products need 64 bits there;
here a schoolbook division keeps everything in 32 bits and exact. OpenCV 5 draws other pixels.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from openseg_jax.types import Array, Bool, Int

__all__ = ["ellipse_outline", "mul_div", "rectangle_outline"]

_SHIFT = 16
_ONE = 1 << _SHIFT
_HALF = _ONE >> 1
_VERTICES = 73  # every 5 degrees, both ends
_SINE_BITS = 27  # the smallest sine that occurs, sin 5°, has its last float32 bit there
# Longest side of a polygon in pixels: 2·sin(2.5°) of the half axis, or 5 for the coarse ones.
_SIDE_FRACTION = 0.0873
_SHORT_SIDE = 5


def mul_div(p: Int[Array, "..."], q: Int[Array, "..."], d: Int[Array, "..."]) -> Int[Array, "..."]:
    """Computes p·q / d, truncated toward zero, without overflow.

    Args:
        p: int32, |p| <= |d|.
        q: int32.
        d: int32, 0 < |d| < 2**30.

    Returns:
        Int32. Exact: the product is never formed, the quotient grows bit by bit.
    """
    sign = jnp.sign(p) * jnp.sign(q) * jnp.sign(d)
    p, q, d = (jnp.abs(v).astype(jnp.uint32) for v in jnp.broadcast_arrays(p, q, d))

    def step(i: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
        quotient, rest = state
        bit = (q >> (jnp.uint32(30) - i.astype(jnp.uint32))) & jnp.uint32(1)
        rest = 2 * rest + bit * p  # below 3·d
        digit = (rest >= d).astype(jnp.uint32) + (rest >= 2 * d).astype(jnp.uint32)
        return 2 * quotient + digit, rest - digit * d

    zero = jnp.zeros_like(p)
    quotient, _ = lax.fori_loop(0, 31, step, (zero, zero))
    return sign * quotient.astype(jnp.int32)


def _sine_table() -> np.ndarray:
    """Tabulates the sine of 0..450 degrees as OpenCV stores it: float32 of 7 decimals."""
    table = np.round(np.sin(np.deg2rad(np.arange(451))), 7).astype(np.float32)
    return np.round(np.ldexp(table.astype(np.float64), _SINE_BITS)).astype(np.int32)


def _fixed_point(half_axis: Int[Array, "..."], sine: Int[Array, "..."]) -> Int[Array, "..."]:
    """Rounds half_axis · sine to 16.16, halves to even, from the table's 27-bit integers."""
    drop = _SINE_BITS - _SHIFT
    high, low = sine >> drop, sine & ((1 << drop) - 1)
    product = half_axis * low
    whole, rest = half_axis * high + (product >> drop), product & ((1 << drop) - 1)
    half = 1 << (drop - 1)
    up = (rest > half) | ((rest == half) & (whole & 1 == 1))
    return whole + up.astype(jnp.int32)


def _outcode(x: Array, y: Array, right: Any, bottom: Any) -> tuple[Array, Array]:
    side = (x < 0).astype(jnp.int32) + 2 * (x > right).astype(jnp.int32)
    level = (y < 0).astype(jnp.int32) + 2 * (y > bottom).astype(jnp.int32)
    return side, level


def _onto(edge: Array, u: Array, v: Array, du: Array, dv: Array, do: Array) -> tuple[Array, Array]:
    """Moves the points marked `do` along their side until v lies on the edge."""
    span = jnp.where(do, dv, 1)
    shift = mul_div(jnp.where(do, edge - v, 0), jnp.where(do, du, 0), span)
    return u + shift, jnp.where(do, edge, v)


def _clip(
    x1: Array, y1: Array, x2: Array, y2: Array, right: Any, bottom: Any
) -> tuple[Array, Array, Array, Array, Array]:
    """Clips sides to [0, right] x [0, bottom]; the last result says what is left of them."""
    side1, level1 = _outcode(x1, y1, right, bottom)
    side2, level2 = _outcode(x2, y2, right, bottom)
    crosses = ((side1 & side2) == 0) & ((level1 & level2) == 0)

    move = crosses & (level1 != 0)
    x1, y1 = _onto(jnp.where(level1 == 1, 0, bottom), x1, y1, x2 - x1, y2 - y1, move)
    move = crosses & (level2 != 0)
    x2, y2 = _onto(jnp.where(level2 == 1, 0, bottom), x2, y2, x2 - x1, y2 - y1, move)

    side1, _ = _outcode(x1, y1, right, bottom)
    side2, _ = _outcode(x2, y2, right, bottom)
    crosses = crosses & ((side1 & side2) == 0)
    move = crosses & (side1 != 0)
    y1, x1 = _onto(jnp.where(side1 == 1, 0, right), y1, x1, y2 - y1, x2 - x1, move)
    move = crosses & (side2 != 0)
    y2, x2 = _onto(jnp.where(side2 == 1, 0, right), y2, x2, y2 - y1, x2 - x1, move)
    return x1, y1, x2, y2, crosses


def _walk(x1: Array, y1: Array, x2: Array, y2: Array, steps: int) -> tuple[Array, Array, Array]:
    """Lists the pixels of clipped sides: (x, y, exists), with a new last axis."""
    wide = jnp.abs(x2 - x1) > jnp.abs(y2 - y1)
    u1, v1 = jnp.where(wide, x1, y1), jnp.where(wide, y1, x1)
    u2, v2 = jnp.where(wide, x2, y2), jnp.where(wide, y2, x2)
    back = u2 < u1
    u1, u2 = jnp.where(back, u2, u1), jnp.where(back, u1, u2)
    v1, v2 = jnp.where(back, v2, v1), jnp.where(back, v1, v2)
    slope = mul_div(v2 - v1, jnp.full_like(u1, _ONE), (u2 - u1) | 1)
    count = (u2 - u1) >> _SHIFT
    i = jnp.arange(steps, dtype=jnp.int32)
    u = ((u1 + _HALF) >> _SHIFT)[..., None] + i
    v = ((v1 + _HALF)[..., None] + i * slope[..., None]) >> _SHIFT
    exists = i <= count[..., None]
    end_u, end_v = ((u2 + _HALF) >> _SHIFT)[..., None], ((v2 + _HALF) >> _SHIFT)[..., None]
    u, v = jnp.concatenate([u, end_u], axis=-1), jnp.concatenate([v, end_v], axis=-1)
    exists = jnp.concatenate([exists, jnp.ones_like(end_u, dtype=bool)], axis=-1)
    wide = wide[..., None]
    return jnp.where(wide, u, v), jnp.where(wide, v, u), exists


def ellipse_outline(
    centre: tuple[Any, Any],
    half_axes: tuple[Any, Any],
    shape: tuple[int, int],
    *,
    size: tuple[Any, Any] | None = None,
) -> Bool[Array, "H W"]:
    """Draws an upright ellipse, one pixel thick, as `cv2.ellipse(img, c, axes, 0, 0, 360)`.

    Args:
        centre: (y, x) int32 scalars, pixels, inside the image.
        half_axes: (vertical, horizontal) int32 scalars, at most half of the image's sides.
        shape: (H, W), static, of the result; sides up to 16384 pixels (16.16 in 32 bits).
        size: true (h, w) of the image in a padded canvas; None means `shape`.

    Returns:
        Bool[H W]: the pixels of the outline.

    Source: OpenCV 4's polygon and line rules as described in car.md §4.
    """
    height, width = shape
    true_h, true_w = shape if size is None else size
    cy, cx = (jnp.asarray(v, jnp.int32) for v in centre)
    ry, rx = (jnp.asarray(v, jnp.int32) for v in half_axes)
    longest = jnp.maximum(ry, rx)
    degrees = jnp.where(
        longest < 3, 90, jnp.where(longest < 10, 30, jnp.where(longest < 15, 18, 5))
    )
    # Vertices beyond 360° repeat the last one: a side of length 0 draws a pixel twice.
    angle = jnp.minimum(jnp.arange(_VERTICES, dtype=jnp.int32) * degrees, 360)
    sine = jnp.asarray(_sine_table())
    x = (cx << _SHIFT) + _fixed_point(rx, sine[450 - angle])
    y = (cy << _SHIFT) + _fixed_point(ry, sine[angle])
    right = (jnp.asarray(true_w, jnp.int32) << _SHIFT) - 1
    bottom = (jnp.asarray(true_h, jnp.int32) << _SHIFT) - 1
    x1, y1, x2, y2, left = _clip(x[:-1], y[:-1], x[1:], y[1:], right, bottom)
    steps = max(_SHORT_SIDE, int(max(shape) / 2 * _SIDE_FRACTION) + 1) + 1
    px, py, exists = _walk(x1, y1, x2, y2, steps)
    inside = (px >= 0) & (px < true_w) & (py >= 0) & (py < true_h)
    exists = exists & inside & left[:, None]
    flat = jnp.where(exists, py * width + px, height * width).reshape(-1)
    canvas = jnp.zeros(height * width, bool).at[flat].set(True, mode="drop")
    return canvas.reshape(shape)


def rectangle_outline(
    low: tuple[Any, Any],
    high: tuple[Any, Any],
    shape: tuple[int, int],
    *,
    size: tuple[Any, Any] | None = None,
) -> Bool[Array, "H W"]:
    """Draws a rectangle, one pixel thick, cut at the border of the image.

    Args:
        low: (y, x) of the first corner, int32 scalars, pixels; may lie outside.
        high: (y, x) of the last corner, part of the rectangle.
        shape: (H, W), static.
        size: true (h, w) of the image in a padded canvas; None means `shape`.

    Returns:
        Bool[H W].

    Source: `cv2.rectangle(img, low, high, colour, 1)`.
    """
    true_h, true_w = shape if size is None else size
    y = jnp.arange(shape[0], dtype=jnp.int32)[:, None]
    x = jnp.arange(shape[1], dtype=jnp.int32)[None, :]
    within = (y >= low[0]) & (y <= high[0]) & (x >= low[1]) & (x <= high[1])
    edge = (y == low[0]) | (y == high[0]) | (x == low[1]) | (x == high[1])
    return within & edge & (y < true_h) & (x < true_w)

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from openseg_jax.ops import raster

ONE = 1 << 16


def clip_side(p, q, right, bottom):
    """Cohen-Sutherland on Python numbers; None when nothing is left."""

    def code(x, y):
        return (x < 0) | (x > right) << 1 | (y < 0) << 2 | (y > bottom) << 3

    p, q = list(p), list(q)
    a, b = code(*p), code(*q)
    if a & b:
        return None
    for point, bits in ((p, a), (q, b)):
        if bits & 12:
            edge = bottom if bits & 8 else 0
            point[0] += math.trunc((edge - point[1]) * (q[0] - p[0]) / (q[1] - p[1]))
            point[1] = edge
    a, b = code(*p), code(*q)
    if a & b:
        return None
    for point, bits in ((p, a), (q, b)):
        if bits:
            edge = right if bits & 2 else 0
            point[1] += math.trunc((edge - point[0]) * (q[1] - p[1]) / (q[0] - p[0]))
            point[0] = edge
    return p, q


def draw_side(canvas, p, q):
    height, width = canvas.shape
    clipped = clip_side(p, q, width * ONE - 1, height * ONE - 1)
    if clipped is None:
        return
    p, q = clipped
    axis = 0 if abs(q[0] - p[0]) > abs(q[1] - p[1]) else 1
    if q[axis] < p[axis]:
        p, q = q, p
    other = 1 - axis
    slope = math.trunc(((q[other] - p[other]) << 16) / ((q[axis] - p[axis]) | 1))
    pixels = [((q[0] + ONE // 2) >> 16, (q[1] + ONE // 2) >> 16)]
    for i in range(((q[axis] - p[axis]) >> 16) + 1):
        pixel = [0, 0]
        pixel[axis] = ((p[axis] + ONE // 2) >> 16) + i
        pixel[other] = (p[other] + ONE // 2 + i * slope) >> 16
        pixels.append(tuple(pixel))
    for x, y in pixels:
        if 0 <= x < width and 0 <= y < height:
            canvas[y, x] = True


def slow_ellipse(cy, cx, ry, rx, shape, table=None):
    """The same rules on Python integers of any length, one vertex and one pixel at a time."""
    if table is None:
        table = np.round(np.sin(np.deg2rad(np.arange(451))), 7).astype(np.float32)
    step = next(s for s, below in ((90, 3), (30, 10), (18, 15), (5, 1e9)) if max(ry, rx) < below)
    points = []
    for angle in (min(a, 360) for a in range(0, 360 + step, step)):
        x = cx * ONE + rx * ONE * float(table[450 - angle])
        y = cy * ONE + ry * ONE * float(table[angle])
        point = (round(x), round(y))
        if not points or points[-1] != point:
            points.append(point)
    canvas = np.zeros(shape, bool)
    for p, q in zip(points, points[1:] or points, strict=False):
        draw_side(canvas, p, q)
    return canvas


def random_ellipses(count, shape, seed):
    rng = np.random.default_rng(seed)
    height, width = shape
    y, x = rng.integers(0, height, count), rng.integers(0, width, count)
    # Half of them small, where the number of vertices changes.
    tall = np.where(rng.random(count) < 0.5, rng.integers(0, 17, count), height)
    wide = np.where(rng.random(count) < 0.5, rng.integers(0, 17, count), width)
    ry = np.minimum(rng.integers(0, tall + 1), height // 2)
    rx = np.minimum(rng.integers(0, wide + 1), width // 2)
    return np.stack([y, x, ry, rx], axis=1).astype(np.int32)


@pytest.mark.parametrize("shape", [(61, 84), (120, 50), (7, 9), (333, 500)], ids=str)
def test_ellipses_equal_the_slow_drawing(shape):
    found = random_ellipses(100, shape, seed=shape[0])
    fast = jax.jit(jax.vmap(lambda e: raster.ellipse_outline((e[0], e[1]), (e[2], e[3]), shape)))
    want = np.stack([slow_ellipse(*(int(v) for v in e), shape) for e in found])
    np.testing.assert_array_equal(fast(found), want)
    leaves = (found[:, 0] < found[:, 2]) | (found[:, 1] + found[:, 3] >= shape[1])
    assert leaves.sum() > 20


def test_an_exact_ellipse_is_another_set_of_pixels():
    shape = (200, 200)
    found = random_ellipses(30, shape, seed=9)
    found[:, 2:] = np.maximum(found[:, 2:], 30)
    draw = jax.vmap(lambda e: raster.ellipse_outline((e[0], e[1]), (e[2], e[3]), shape))
    y, x = np.mgrid[:200, :200]
    for e, drawn in zip(found, np.asarray(jax.jit(draw)(found)), strict=True):
        inside = ((y - e[0]) / (e[2] + 0.5)) ** 2 + ((x - e[1]) / (e[3] + 0.5)) ** 2 <= 1
        rim = inside & ~ndimage.binary_erosion(inside, border_value=1)
        assert (drawn != rim).any()


@pytest.mark.slow
def test_padding_changes_nothing():
    shape, canvas = (61, 84), (96, 128)
    found = random_ellipses(60, shape, seed=4)
    tight = jax.vmap(lambda e: raster.ellipse_outline((e[0], e[1]), (e[2], e[3]), shape))(found)
    padded = jax.jit(
        lambda e, h, w: jax.vmap(
            lambda v: raster.ellipse_outline((v[0], v[1]), (v[2], v[3]), canvas, size=(h, w))
        )(e)
    )(found, jnp.int32(61), jnp.int32(84))
    padded = np.asarray(padded)
    np.testing.assert_array_equal(padded[:, :61, :84], tight)
    assert not padded[:, 61:].any() and not padded[:, :, 84:].any()


def test_a_large_image_stays_within_32_bits():
    shape = (40, 16384)
    got = raster.ellipse_outline((20, 16000), (20, 8192), shape)
    np.testing.assert_array_equal(got, slow_ellipse(20, 16000, 20, 8192, shape))


def test_mul_div_is_exact():
    rng = np.random.default_rng(0)
    d = rng.integers(1, 2**30, 5000) * rng.choice([-1, 1], 5000)
    p = (rng.random(5000) * (np.abs(d) + 1)).astype(np.int64) * rng.choice([-1, 1], 5000)
    q = rng.integers(-(2**30), 2**30, 5000)
    want = [
        math.copysign(abs(a * b) // abs(c), a * b * c)
        for a, b, c in zip(p.tolist(), q.tolist(), d.tolist(), strict=True)
    ]
    got = raster.mul_div(*(jnp.asarray(v, jnp.int32) for v in (p, q, d)))
    np.testing.assert_array_equal(got, np.array(want, np.int64))
    floats = (p.astype(np.float32) * q.astype(np.float32) / d.astype(np.float32)).astype(np.int64)
    assert (floats != np.array(want, np.int64)).any()


def test_rectangle_is_cut_at_the_border():
    got = np.asarray(raster.rectangle_outline((-2, 3), (4, 20), (8, 12)))
    want = np.zeros((8, 12), bool)
    want[4, 3:] = True
    want[:5, 3] = True
    np.testing.assert_array_equal(got, want)
    padded = np.asarray(raster.rectangle_outline((-2, 3), (4, 20), (16, 16), size=(8, 12)))
    np.testing.assert_array_equal(padded[:8, :12], want)
    assert not padded[:, 12:].any()

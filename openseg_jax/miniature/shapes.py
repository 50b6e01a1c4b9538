"""Outlines and textures as analytic functions of a thing's own coordinates.

`u` points right and `v` down in the thing's frame; 1 is the thing's half size, and every outline
stays within distance REACH of the centre. An outline returns a signed distance (negative inside,
slope about 1), a texture the weight of the second colour in [0, 1]. `edge` is one pixel in these
units: edges are softened over one pixel instead of supersampling, which would cost four times.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

Plane = Float[np.ndarray, "H W"]
REACH = 1.25


def _rectangle(u: Plane, v: Plane, half_width: float, half_height: float) -> Plane:
    return np.maximum(np.abs(u) - half_width, np.abs(v) - half_height)


def _disc(u: Plane, v: Plane) -> Plane:
    return np.hypot(u, v) - 1.0


def _oval(u: Plane, v: Plane) -> Plane:
    return (np.hypot(u, v * 1.45) - 1.0) * 0.8


def _egg(u: Plane, v: Plane) -> Plane:
    return (np.hypot(u * (1.5 - 0.15 * v), v) - 1.0) * 0.8


def _square(u: Plane, v: Plane) -> Plane:
    return _rectangle(u, v, 0.86, 0.86)


def _slab(u: Plane, v: Plane) -> Plane:
    return _rectangle(u, v, 1.0, 0.66)


def _tower(u: Plane, v: Plane) -> Plane:
    return np.maximum(np.abs(u) - 0.12 * v - 0.44, np.abs(v) - 1.0)


def _animal(u: Plane, v: Plane) -> Plane:
    body = _rectangle(u + 0.05, v + 0.05, 0.92, 0.42)
    legs = _rectangle(np.abs(u + 0.05) - 0.62, v - 0.45, 0.24, 0.40)
    head = _rectangle(u - 0.70, v + 0.42, 0.26, 0.36)
    return np.minimum(np.minimum(body, legs), head)


def _mushroom(u: Plane, v: Plane) -> Plane:
    hat = np.maximum(np.hypot(u, v - 0.25) - 1.0, v - 0.25)
    stem = _rectangle(u, v - 0.5, 0.36, 0.45)
    return np.minimum(hat, stem)


def _bowl(u: Plane, v: Plane) -> Plane:
    return np.maximum(np.hypot(u, v + 0.5) - 1.08, -0.5 - v)


def _drop(u: Plane, v: Plane) -> Plane:
    return (np.hypot(u * (1.25 + 0.5 * v), v) - 1.0) * 0.8


def _pear(u: Plane, v: Plane) -> Plane:
    return (np.hypot(u * (1.55 - 0.5 * v), v) - 1.0) * 0.8


def _cone(u: Plane, v: Plane) -> Plane:
    return np.maximum(np.abs(u) + 0.28 * v - 0.40, np.abs(v) - 1.0)


def _lens(u: Plane, v: Plane) -> Plane:
    return np.hypot(np.abs(v) + 0.364, u) - 1.064


def _fish(u: Plane, v: Plane) -> Plane:
    body = np.hypot(np.abs(v) + 0.25, u + 0.2) - 0.85
    tail = np.maximum(np.abs(v) - 0.9 * u + 0.25, u - 1.0)
    return np.minimum(body, tail)


def _blob(u: Plane, v: Plane) -> Plane:
    # cos(3 angle) = (u^3 - 3 u v^2) / radius^3, without the cost of arctan2
    radius = np.hypot(u, v) + 1e-4
    return radius - 0.88 - 0.14 * u * (u * u - 3.0 * v * v) / radius**3


def _petals(u: Plane, v: Plane) -> Plane:
    return np.hypot(u, v) - 0.86 - 0.14 * np.cos(8.0 * np.arctan2(v, u))


def _ring(u: Plane, v: Plane) -> Plane:
    return np.abs(np.hypot(u, v) - 0.64) - 0.36


def _cactus(u: Plane, v: Plane) -> Plane:
    trunk = _rectangle(u, v, 0.36, 1.0)
    bar = _rectangle(u, v - 0.25, 0.86, 0.22)
    arms = _rectangle(np.abs(u) - 0.7, v + 0.08, 0.20, 0.42)
    return np.minimum(np.minimum(trunk, bar), arms)


OUTLINES: Mapping[str, Callable[[Plane, Plane], Plane]] = {
    "disc": _disc,
    "oval": _oval,
    "egg": _egg,
    "square": _square,
    "slab": _slab,
    "tower": _tower,
    "animal": _animal,
    "mushroom": _mushroom,
    "bowl": _bowl,
    "drop": _drop,
    "pear": _pear,
    "cone": _cone,
    "lens": _lens,
    "fish": _fish,
    "blob": _blob,
    "petals": _petals,
    "ring": _ring,
    "cactus": _cactus,
}


def _soft(distance: Plane, edge: float) -> Plane:
    """Turns a distance (positive where the second colour is) into a weight, one pixel soft."""
    return np.clip(distance * (1.0 / edge) + 0.5, 0.0, 1.0)


def _wave(x: Plane, pitch: float) -> Plane:
    """Computes a triangle wave: distance to the nearest edge, positive in odd cells."""
    return (0.5 - np.abs(np.mod(x * (1.0 / pitch) - 0.5, 2.0) - 1.0)) * -pitch


def _stripes(u: Plane, v: Plane, depth: Plane, pitch: float, edge: float) -> Plane:
    return _soft(_wave(u, pitch), edge)


def _bands(u: Plane, v: Plane, depth: Plane, pitch: float, edge: float) -> Plane:
    return _soft(_wave(v, pitch), edge)


def _rings(u: Plane, v: Plane, depth: Plane, pitch: float, edge: float) -> Plane:
    return _soft(_wave(np.hypot(u, v) - 0.5 * pitch, pitch), edge)


def _checks(u: Plane, v: Plane, depth: Plane, pitch: float, edge: float) -> Plane:
    product = _wave(u - 0.5 * pitch, pitch) * _wave(v - 0.5 * pitch, pitch)
    return _soft(product * (2.0 / pitch), edge)


def _dots(u: Plane, v: Plane, depth: Plane, pitch: float, edge: float) -> Plane:
    # two square lattices, half a step apart: every second row is shifted
    a, b = u * (1.0 / pitch), v * (1.0 / pitch)
    first = np.hypot(a - np.rint(a), b - np.rint(b))
    second = np.hypot(a - np.floor(a) - 0.5, b - np.floor(b) - 0.5)
    return _soft((0.31 - np.minimum(first, second)) * pitch, edge)


def _bricks(u: Plane, v: Plane, depth: Plane, pitch: float, edge: float) -> Plane:
    row = np.floor(v * (1.0 / pitch) + 0.5)
    across = u * (0.5 / pitch) + 0.5 * np.mod(row, 2.0)
    joint = 0.5 - np.abs(across - np.floor(across) - 0.5)
    bed = 0.5 - np.abs(v * (1.0 / pitch) - row)
    return _soft((0.15 - np.minimum(joint * 2.0, bed)) * pitch, edge)


def _cross(u: Plane, v: Plane, depth: Plane, pitch: float, edge: float) -> Plane:
    return _soft(pitch - np.minimum(np.abs(u), np.abs(v)), edge)


def _wedges(u: Plane, v: Plane, depth: Plane, pitch: float, edge: float) -> Plane:
    # the sign of cos(3 angle) makes six sectors; `pitch` is the 3
    square = u * u + v * v + 1e-4
    return _soft(u * (u * u - 3.0 * v * v) / (square * pitch), edge)


def _cap(u: Plane, v: Plane, depth: Plane, pitch: float, edge: float) -> Plane:
    return _soft(-pitch - v + 0.25 * np.abs(u), edge)


def _tip(u: Plane, v: Plane, depth: Plane, pitch: float, edge: float) -> Plane:
    return _soft(u - pitch, edge)


def _core(u: Plane, v: Plane, depth: Plane, pitch: float, edge: float) -> Plane:
    return _soft(pitch - np.hypot(u, v), edge)


def _rim(u: Plane, v: Plane, depth: Plane, pitch: float, edge: float) -> Plane:
    return _soft(depth + pitch, edge)


TEXTURES: Mapping[str, Callable[[Plane, Plane, Plane, float, float], Plane]] = {
    "stripes": _stripes,
    "bands": _bands,
    "rings": _rings,
    "checks": _checks,
    "dots": _dots,
    "bricks": _bricks,
    "cross": _cross,
    "wedges": _wedges,
    "cap": _cap,
    "tip": _tip,
    "core": _core,
    "rim": _rim,
}


@functools.cache
def area(outline: str) -> float:
    """Measures an outline's area, in squared half sizes.

    Args:
        outline: key of OUTLINES.
    Returns:
        area; an unrotated thing of half size r pixels covers about area * r**2 pixels.
    """
    axis = np.linspace(-REACH, REACH, 257, dtype=np.float32)
    u, v = np.meshgrid(axis, axis)
    return float(np.mean(OUTLINES[outline](u, v) < 0.0)) * (2.0 * REACH) ** 2

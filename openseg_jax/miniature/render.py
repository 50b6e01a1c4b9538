"""Paints stuff and things onto a canvas and keeps exact masks of what stays visible."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from jaxtyping import Float, Int, UInt8

from openseg_jax.miniature import shapes
from openseg_jax.miniature.world import STUFF_TABLE, THING_TABLE, THINGS, WORLD_SEED

MIN_VISIBLE = 0.35
"""A thing shows at least this share of its whole area, else it is not placed."""

_TILE = 256
_JITTER = 14.0  # a thing's colours vary by at most this many of 255 steps


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where and how one thing stands.

    Attributes:
        thing: semantic id in [1, 24].
        x: centre, pixels from the left edge.
        y: centre, pixels from the top edge.
        radius: half size, pixels.
        angle: rotation, radians, clockwise on screen.
        mirrored: left and right swapped in its own frame.
    """

    thing: int
    x: float
    y: float
    radius: float
    angle: float = 0.0
    mirrored: bool = False

    @property
    def name(self) -> str:
        """Canonical name of the thing."""
        return THINGS[self.thing - 1]


@functools.cache
def _soft_noise(kind: int) -> Float[np.ndarray, "t t"]:
    """Makes one periodic tile of soft noise for a stuff: mean 0, clipped to [-1.5, 1.5]."""
    rows, columns = STUFF_TABLE[kind].grain
    rng = np.random.default_rng([WORLD_SEED, kind])
    spectrum = np.fft.rfft2(rng.standard_normal((_TILE, _TILE)))
    low = np.exp(-2.0 * (np.pi * rows * np.fft.fftfreq(_TILE)) ** 2)[:, None]
    spectrum = spectrum * low * np.exp(-2.0 * (np.pi * columns * np.fft.rfftfreq(_TILE)) ** 2)
    tile = np.fft.irfft2(spectrum, (_TILE, _TILE))
    tile = np.clip(0.6 * (tile - tile.mean()) / tile.std(), -1.5, 1.5).astype(np.float32)
    return np.tile(tile, (2, 2))


def _column(colour: object) -> Float[np.ndarray, "3 1 1"]:
    return np.asarray(colour, np.float32).reshape(3, 1, 1)


class Canvas:
    """A picture being painted, back to front.

    Colours are held as planes [3, H, W]: NumPy's inner loop then runs over pixels, not over 3.

    Args:
        size: side, pixels.
        rng: source of all chance in this picture.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size = size
        self.placed: list[Placement] = []
        self._rng = rng
        self._planes = np.zeros((3, size, size), np.float32)
        self._stuff = np.zeros((size, size), np.int32)
        self._instance = np.zeros((size, size), np.int32)
        self._needed: list[float] = []
        self._visible: list[int] = []
        light = rng.uniform(0.0, 2.0 * np.pi)
        self._light = (float(np.cos(light)), float(np.sin(light)))

    def paint_stuff(self, kinds: tuple[int, ...]) -> None:
        """Covers the canvas with one stuff, or with two split by a tilted line.

        Args:
            kinds: one or two semantic ids in [25, 30]; the first lies on top.
        """
        first = len(THINGS) + 1
        self._planes = self._stuff_planes(kinds[0] - first)
        self._stuff[:] = kinds[0]
        if len(kinds) == 1:
            return
        rng, size = self._rng, self.size
        slope, height = rng.uniform(-0.35, 0.35), rng.uniform(0.3, 0.7) * size
        axis = np.arange(size, dtype=np.float32)
        line = height + slope * (axis - 0.5 * size)
        line += 0.02 * size * np.sin(axis * (rng.uniform(4.0, 14.0) / size))
        below = np.clip(axis[:, None] - line[None].astype(np.float32), 0.0, 1.0)
        self._planes += below * (self._stuff_planes(kinds[1] - first) - self._planes)
        self._stuff[below > 0.5] = kinds[1]

    def _stuff_planes(self, kind: int) -> Float[np.ndarray, "3 H W"]:
        top, left = self._rng.integers(0, _TILE, 2)
        stuff, size = STUFF_TABLE[kind], self.size
        tile = _soft_noise(kind)[top : top + size, left : left + size]
        shift = self._rng.uniform(-8.0, 8.0, (3, 1, 1)).astype(np.float32)
        return _column(stuff.colour) + shift + tile * _column(stuff.accent)

    def place(self, placement: Placement, min_visible: float = MIN_VISIBLE) -> bool:
        """Paints a thing in front of all others, unless too little of any thing would stay.

        Args:
            placement: the thing.
            min_visible: share of the new thing's area that must stay visible to the end, [0, 1].
        Returns:
            True when painted; False when the canvas is left as it was.
        """
        thing, size, radius = THING_TABLE[placement.thing - 1], self.size, placement.radius
        reach = radius * shapes.REACH + 1.0
        x0, x1 = max(int(placement.x - reach), 0), min(int(placement.x + reach) + 1, size)
        y0, y1 = max(int(placement.y - reach), 0), min(int(placement.y + reach) + 1, size)
        if x0 >= x1 or y0 >= y1:
            return False
        across = (np.arange(x0, x1, dtype=np.float32) + (0.5 - placement.x)) * (1.0 / radius)
        down = (np.arange(y0, y1, dtype=np.float32) + (0.5 - placement.y)) * (1.0 / radius)
        down = down[:, None]
        cos, sin = float(np.cos(placement.angle)), float(np.sin(placement.angle))
        u, v = cos * across + sin * down, cos * down - sin * across
        if placement.mirrored:
            u = -u
        depth = shapes.OUTLINES[thing.outline](u, v)
        alpha = np.clip(0.5 - depth * radius, 0.0, 1.0)
        inside = alpha > 0.5
        if not self._fits(inside, self._instance[y0:y1, x0:x1], thing.outline, radius, min_visible):
            return False
        weight = shapes.TEXTURES[thing.texture](u, v, depth, thing.pitch, 1.0 / radius)
        shift = self._rng.uniform(-_JITTER, _JITTER, (2, 3, 1, 1)).astype(np.float32)
        main = _column(thing.colours[0]) + shift[0]
        second = _column(thing.colours[1]) + shift[1]
        shade = (0.16 * self._light[0]) * across + ((0.16 * self._light[1]) * down + 1.0)
        paint = (main + weight * (second - main)) * shade
        window = self._planes[:, y0:y1, x0:x1]
        window += alpha * (paint - window)
        self.placed.append(placement)
        self._instance[y0:y1, x0:x1][inside] = len(self.placed)
        return True

    def _fits(
        self, inside: np.ndarray, behind: np.ndarray, outline: str, radius: float, share: float
    ) -> bool:
        """Books the pixels of a new thing when it and all behind it stay visible enough."""
        own, whole = int(np.count_nonzero(inside)), shapes.area(outline) * radius * radius
        if own < max(share * whole, 8.0):
            return False
        hidden = np.bincount(behind[inside], minlength=len(self.placed) + 1)
        left = [seen - int(hidden[i + 1]) for i, seen in enumerate(self._visible)]
        if any(seen < needed for seen, needed in zip(left, self._needed, strict=True)):
            return False
        self._visible = [*left, own]
        self._needed.append(max(share * whole, 8.0))
        return True

    def finish(
        self,
    ) -> tuple[UInt8[np.ndarray, "H W 3"], Int[np.ndarray, "H W"], Int[np.ndarray, "H W"]]:
        """Lights the scene, adds noise and reads out picture and masks.

        Returns:
            image; semantic map (1..24 things, 25..30 stuff, every pixel labelled); instance map
            (0 stuff, i the i-th of `placed`, in painting order).
        """
        rng, size = self._rng, self.size
        gain = rng.uniform(0.68, 1.04) * rng.uniform(0.94, 1.06, (3, 1, 1))
        ramp = np.linspace(-0.12, 0.12, size, dtype=np.float32)
        field = self._light[0] * ramp + (self._light[1] * ramp + 1.0)[:, None]
        noise = rng.standard_normal((3, size, size), dtype=np.float32)
        noise *= np.float32(rng.uniform(1.0, 9.0))
        noise += self._planes * (field * gain.astype(np.float32))
        np.clip(noise, 0.0, 255.0, out=noise)
        image = np.ascontiguousarray(noise.astype(np.uint8).transpose(1, 2, 0))
        ids = np.array([0, *(placement.thing for placement in self.placed)], np.int32)
        semantic = np.where(self._instance > 0, ids[self._instance], self._stuff)
        return image, semantic.astype(np.int32), self._instance

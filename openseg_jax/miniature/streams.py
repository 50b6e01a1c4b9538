"""Endless, fixed streams of scenes and of captioned pictures, addressed by index.

Any example is a pure function of (seed, stream, index): nothing is stored, workers need no shared
state, and a resumed run sees what it would have seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from openseg_jax.miniature import captions, prompts
from openseg_jax.miniature.render import Canvas, Placement
from openseg_jax.miniature.world import STUFF, THINGS, UNSEEN_THINGS, WORLD_SEED, class_id

STREAMS: Mapping[str, int] = {"train": 0, "val": 1, "test": 2, "captions": 3}
"""Streams never share a random seed. "captions" is what `training_example` draws from."""

_COUNT_CHANCES = (0.2, 0.25, 0.25, 0.2, 0.1)  # of 1 to 5 things
_RADII = (0.115, 0.25)  # of the picture's side: 22 to 48 pixels across at 96
_SKY = class_id("sky")


@dataclasses.dataclass(frozen=True)
class Scene:
    """A picture with everything that is known about it.

    Attributes:
        image: UInt8[H W 3].
        semantic: Int32[H W]; 1..24 things, 25..30 stuff; every pixel labelled.
        instance: Int32[H W]; 0 stuff, i the thing `things[i - 1]`.
        things: what is visible, back to front.
        stuff: semantic ids of its stuff, one or two.
        caption: a true sentence about a random part of it.
    """

    image: UInt8[np.ndarray, "H W 3"]
    semantic: Int[np.ndarray, "H W"]
    instance: Int[np.ndarray, "H W"]
    things: tuple[Placement, ...]
    stuff: tuple[int, ...]
    caption: str


def generator(stream: str, index: int, seed: int = 0) -> np.random.Generator:
    """Makes the source of chance of one example.

    Args:
        stream: key of STREAMS.
        index: place in the stream, 0 or more.
        seed: which of the worlds with the same rules.
    Returns:
        NumPy generator.
    Raises:
        UserError: on an unknown stream.
    """
    if stream not in STREAMS:
        from openseg_jax.errors import unknown_name

        unknown_name(stream, tuple(STREAMS), "miniature stream")
    words = np.random.SeedSequence([WORLD_SEED, seed, STREAMS[stream], index])
    return np.random.Generator(np.random.PCG64(words))


def _draw_stuff(rng: np.random.Generator, split_chance: float) -> tuple[int, ...]:
    first, second = (len(THINGS) + 1 + rng.permutation(len(STUFF))[:2]).tolist()
    if rng.random() >= split_chance:
        return (first,)
    return (second, first) if second == _SKY else (first, second)


def _draw_things(
    rng: np.random.Generator, canvas: Canvas, among: Sequence[int], radii: tuple[float, float]
) -> None:
    """Places 1 to 5 things; one that finds no room in a few tries is left out."""
    wanted = 1 + int(np.searchsorted(np.cumsum(_COUNT_CHANCES), rng.random()))
    for _ in range(wanted):
        repeat = canvas.placed and rng.random() < 0.2
        kind = canvas.placed[-1].thing if repeat else among[int(rng.random() * len(among))]
        for _ in range(6):
            radius = canvas.size * rng.uniform(*radii)
            margin = min(0.7 * radius, 0.45 * canvas.size)
            if canvas.place(_placement(rng, kind, radius, margin, canvas.size)):
                break


def _placement(
    rng: np.random.Generator, kind: int, radius: float, margin: float, size: int
) -> Placement:
    x, y, turn, flip = rng.random(4).tolist()
    span = size - 2.0 * margin
    angle = (turn - 0.5) * 1.4  # at most 40 degrees: a cap stays roughly on top
    return Placement(kind, margin + x * span, margin + y * span, radius, angle, flip < 0.5)


def _all_things(among: Sequence[int] | None) -> Sequence[int]:
    return tuple(range(1, len(THINGS) + 1)) if among is None else tuple(among)


def scene(
    stream: str,
    index: int,
    size: int = 96,
    *,
    seed: int = 0,
    among: Sequence[int] | None = None,
) -> Scene:
    """Renders one scene of a stream.

    Args:
        stream: "train", "val" or "test".
        index: place in the stream, 0 or more.
        size: side, pixels.
        seed: which of the worlds with the same rules.
        among: semantic ids that things are drawn from; None means all 24.
    Returns:
        the scene; the same arguments give the same scene.
    """
    rng = generator(stream, index, seed)
    canvas, stuff = Canvas(size, rng), _draw_stuff(rng, 0.5)
    canvas.paint_stuff(stuff)
    _draw_things(rng, canvas, _all_things(among), _RADII)
    image, semantic, instance = canvas.finish()
    stuff, things = _visible(stuff, semantic), tuple(canvas.placed)
    caption = captions.scene_caption(rng, things, stuff, size)
    return Scene(image, semantic, instance, things, stuff, caption)


def _visible(stuff: tuple[int, ...], semantic: Int[np.ndarray, "H W"]) -> tuple[int, ...]:
    """Keeps the stuff that captions may name: a sliver of it is not "in the picture"."""
    areas = {kind: int(np.count_nonzero(semantic == kind)) for kind in stuff}
    largest = max(areas, key=areas.__getitem__)
    return tuple(k for k in stuff if k == largest or areas[k] >= 0.02 * semantic.size)


def supervised(semantic: Int[np.ndarray, "H W"]) -> Int[np.ndarray, "H W"]:
    """Hides the masks of UNSEEN_THINGS, as a segmenter in training must see them.

    Args:
        semantic: map of `Scene.semantic`.
    Returns:
        the same with 0 (ignore) on the pixels of things that get no mask supervision.
    """
    hidden = [class_id(name) for name in UNSEEN_THINGS]
    return np.where(np.isin(semantic, hidden), 0, semantic).astype(np.int32)


def crop(
    scene: Scene, number: int, size: int | None = None, *, context: float = 1.15
) -> UInt8[np.ndarray, "h w 3"]:
    """Cuts out one thing with a little of what surrounds it.

    Args:
        scene: where from.
        number: which of `scene.things`, from 0.
        size: side to resize to (bicubic), pixels; None keeps the scene's resolution.
        context: side of the square over the longer side of the thing's visible box.
    Returns:
        square crop; moved inwards where it would leave the scene.
    """
    rows, columns = np.nonzero(scene.instance == number + 1)
    height, width = scene.instance.shape
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    side = min(round(context * max(bottom - top, right - left)), height, width)
    y = int(np.clip((top + bottom - side) // 2, 0, height - side))
    x = int(np.clip((left + right - side) // 2, 0, width - side))
    return _resize(scene.image[y : y + side, x : x + side], size or side)


def _resize(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "s s 3"]:
    if image.shape[0] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def training_example(
    index: int, size: int = 64, *, seed: int = 0, among: Sequence[int] | None = None
) -> tuple[UInt8[np.ndarray, "H W 3"], str]:
    """Makes one captioned picture for contrastive training: a close-up, a scene or bare stuff.

    Args:
        index: place in the stream "captions", 0 or more.
        size: side, pixels.
        seed: which of the worlds with the same rules.
        among: semantic ids that things are drawn from (for hard batches); None means all 24.
    Returns:
        image; lower-case caption.
    """
    rng, kinds = generator("captions", index, seed), _all_things(among)
    chance = rng.random()
    if chance < 0.35:
        return _close_up(rng, kinds, size)
    canvas, stuff = Canvas(size, rng), _draw_stuff(rng, 0.5)
    canvas.paint_stuff(stuff)
    if chance < 0.45:
        return canvas.finish()[0], captions.stuff_caption(rng, stuff)
    _draw_things(rng, canvas, kinds, _RADII if rng.random() < 0.7 else (0.2, 0.4))
    image, semantic, instance = canvas.finish()
    stuff, things = _visible(stuff, semantic), tuple(canvas.placed)
    if things and rng.random() < 0.2:
        number = int(rng.random() * len(things))
        image = prompts.mark(rng, image, instance == number + 1)
        return image, captions.thing_caption(rng, things[number], (), size)
    return image, captions.scene_caption(rng, things, stuff, size)


def _close_up(
    rng: np.random.Generator, kinds: Sequence[int], size: int
) -> tuple[UInt8[np.ndarray, "H W 3"], str]:
    """Shows one thing large; often blurred like an enlarged crop, sometimes with a neighbour."""
    # crops of the gate are 25 to 60 pixels before they are enlarged, so half of these are too
    side = size if rng.random() < 0.5 else int(size * rng.uniform(0.38, 0.9))
    canvas, stuff = Canvas(side, rng), _draw_stuff(rng, 0.25)
    canvas.paint_stuff(stuff)
    kind = kinds[int(rng.random() * len(kinds))]
    radius = side * rng.uniform(0.22, 0.50)
    neighbour = rng.random() < 0.3
    while not canvas.placed:
        margin = min(radius * rng.uniform(0.8, 1.1), 0.5 * side)
        canvas.place(_placement(rng, kind, radius, margin, side), 0.6)
    if neighbour:
        other = kinds[int(rng.random() * len(kinds))]
        canvas.place(_placement(rng, other, side * rng.uniform(0.2, 0.5), 0.0, side), 0.05)
    image = _resize(canvas.finish()[0], size)
    return image, captions.thing_caption(rng, canvas.placed[0], stuff, side)


def presence(scene: Scene) -> Bool[np.ndarray, "C"]:
    """Tells which of the 30 classes a scene shows.

    Args:
        scene: the scene.
    Returns:
        True at semantic id - 1 where the class has at least one pixel.
    """
    counts = np.bincount(scene.semantic.ravel(), minlength=len(THINGS) + len(STUFF) + 1)
    return counts[1:] > 0

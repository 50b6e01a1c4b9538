"""What the miniature's CLIP knows: zero-shot crops and presence, on a stream it never saw.

Two questions, asked of whole images, without masks:

- zero-shot top-1: a visible thing is cut out with a little of what surrounds it; which of the 24
  names fits best?
- presence mAP: ranked by similarity with a class name, do scenes that show the class come before
  those that do not? The mean over the 30 classes of the average precision.

Nothing is tuned: the prompts are the ones of CaR, averaged, whatever the weights.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.errors import UserError
from openseg_jax.miniature.captions import templates
from openseg_jax.miniature.streams import crop, presence, scene
from openseg_jax.miniature.world import CLASS_NAMES, THINGS
from openseg_jax.models.clip import CLIP, normalize
from openseg_jax.models.preprocess import fit_image, scale_pixels
from openseg_jax.models.variants import CLIPConfig, Preprocess
from openseg_jax.text.classifier import text_classifier
from openseg_jax.types import Array, Bool, Float, Params, UInt8
from openseg_jax.weights.loaded import LoadedClip

GATES = {"top1": 0.90, "presence": 0.90}
"""What the shipped weights have to reach on the test stream."""


@dataclasses.dataclass(frozen=True)
class ClipScores:
    """How well a CLIP knows one world.

    Attributes:
        seed: of the world. stream: "val" or "test". scenes, crops: how many were asked about.
        top1: share of crops whose thing was named right, [0, 1].
        presence: mean average precision over the classes, [0, 1].
        class_top1: THINGS -> top1. class_presence: CLASS_NAMES -> average precision. Classes
            that never occur are missing.
    """

    seed: int
    stream: str
    scenes: int
    crops: int
    top1: float
    presence: float
    class_top1: dict[str, float]
    class_presence: dict[str, float]


def average_precision(score: Float[np.ndarray, " B"], present: Bool[np.ndarray, " B"]) -> float:
    """Computes the mean precision at the ranks of the positives.

    Args:
        score: higher is more likely; equal scores keep their order.
        present: the truth, at least one True.
    """
    order = np.argsort(-score, kind="stable")
    hits = present[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def clip_scores(
    loaded: LoadedClip,
    *,
    seed: int = 0,
    stream: str = "test",
    scenes: int = 400,
    size: int = 96,
) -> ClipScores:
    """Measures zero-shot top-1 and presence mAP on the first scenes of a stream.

    Args:
        loaded: the weights.
        seed: of the world.
        stream: "test" for numbers to report, "val" to choose by.
        scenes: how many.
        size: side of a scene, pixels.
    """
    if scenes < 1:
        raise UserError(f"scenes: expected at least 1, got {scenes}; ask for some")
    embed = functools.partial(embed_images, loaded)
    names = text_classifier(loaded, CLASS_NAMES, templates())
    wholes, crops, kinds, shown = [], [], [], []
    for index in range(scenes):
        found = scene(stream, index, size, seed=seed)
        wholes.append(found.image)
        shown.append(presence(found))
        for number, thing in enumerate(found.things):
            crops.append(crop(found, number))
            kinds.append(thing.thing - 1)
    truth = np.array(kinds)
    right = (embed(crops) @ names[: len(THINGS)].T).argmax(axis=1) == truth
    similar, present = embed(wholes) @ names.T, np.stack(shown)
    precision = {
        name: average_precision(similar[:, i], present[:, i])
        for i, name in enumerate(CLASS_NAMES)
        if present[:, i].any()
    }
    return ClipScores(
        seed=seed,
        stream=stream,
        scenes=scenes,
        crops=len(crops),
        top1=float(right.mean()),
        presence=float(np.mean(list(precision.values()))),
        class_top1={
            name: float(right[truth == i].mean())
            for i, name in enumerate(THINGS)
            if (truth == i).any()
        },
        class_presence=precision,
    )


def embed_images(
    loaded: LoadedClip, images: Sequence[UInt8[np.ndarray, "H W 3"]], *, chunk: int = 64
) -> Float[np.ndarray, "B E"]:
    """Embeds pictures of any sizes with the weights' own preparation.

    Args:
        loaded: the weights.
        images: RGB.
        chunk: how many at a time; one shape is compiled.

    Returns:
        unit-length rows.
    """
    pixels = np.stack([fit_image(image, loaded.preprocess) for image in images])
    params = jax.tree.map(jnp.asarray, loaded.params)
    encode = functools.partial(_encoder(loaded.config, loaded.preprocess), params)
    return in_chunks(encode, pixels, chunk)


def in_chunks(run: Callable[[Any], Any], rows: Any, chunk: int) -> Any:
    """Runs a compiled function on parts of one size, the last one padded with zeros.

    Args:
        run: from a tree of `chunk` rows to another of as many.
        rows: an array or a tree of them; any number of rows but none.
        chunk: how many at a time; one shape is compiled.

    Returns:
        the tree, as NumPy arrays of all rows.
    """
    count = len(jax.tree.leaves(rows)[0])
    missing = -count % chunk
    grown = jax.tree.map(
        lambda x: np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)]), rows
    )
    parts = [
        jax.device_get(run(jax.tree.map(lambda x, at=at: x[at : at + chunk], grown)))
        for at in range(0, count, chunk)
    ]
    return jax.tree.map(lambda *x: np.concatenate(x)[:count], *parts)


# A named edge: jitted once for each architecture and rule.
@functools.lru_cache(maxsize=4)
def _encoder(config: CLIPConfig, rule: Preprocess) -> Callable[..., Array]:
    clip = CLIP(config)

    def encode(params: Params, image: UInt8[Array, "B S S 3"]) -> Float[Array, "B E"]:
        pixels = scale_pixels(image, rule)
        rows: Any = clip.apply({"params": params}, pixels, method=CLIP.encode_image)
        return normalize(rows)

    return jax.jit(encode)

"""Dense CLIP on the miniature world: what each published last block is worth.

All variants share weights, prompts and windows. Every scene is measured three times:

- "all": the 30 names compete, and every pixel belongs to one of them;
- "stuff_texts": the 24 things count, the 6 stuff names are background texts that compete;
- "threshold": the things alone are known, and pixels whose best probability is too low are
  background. Temperature and threshold are tuned for each variant on the validation stream.

Numbers are about the miniature world only; they say nothing about photographs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from scipy.special import softmax

from openseg_jax.errors import expected
from openseg_jax.eval.confusion import confusion_matrix, metrics
from openseg_jax.eval.gates import in_chunks
from openseg_jax.methods.clip_dense import Reader, load
from openseg_jax.miniature.streams import Scene, scene
from openseg_jax.miniature.world import CLASS_NAMES, THINGS
from openseg_jax.models.last_block import LAST_BLOCKS
from openseg_jax.types import Array, Float, Int, Params, UInt8

__all__ = [
    "RULES", "SCALES", "DenseScores", "Tuned", "cosine_maps", "dense_cosines", "labels", "measure",
    "tune",
]  # fmt: skip

RULES = ("all", "stuff_texts", "threshold")
SCALES = (10.0, 20.0, 40.0, 65.0, 100.0)
THRESHOLDS = tuple(np.arange(0.05, 1.0, 0.05).round(2).tolist())
_CHUNK = 20


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What the rule "threshold" needs; chosen on validation scenes."""

    scale: float
    threshold: float


@dataclasses.dataclass(frozen=True)
class DenseScores:
    """What was counted on the scenes of one world.

    Attributes:
        seed: of the world. scenes: how many, from the beginning of the test stream.
        tuned: variant -> settings of the rule "threshold".
        counts: (variant, rule) -> Int[C C], confusion matrix; background is row 0.
    """

    seed: int
    scenes: int
    tuned: dict[str, Tuned]
    counts: dict[tuple[str, str], Int[np.ndarray, "C C"]]

    def miou(self, variant: str, rule: str) -> float:
        """Returns mIoU over the classes in the truth; background counts where there is one."""
        return metrics(self.counts[variant, rule]).miou["gt"]

    @property
    def holds(self) -> bool:
        """Whether every changed last block beats the plain one, all 30 names competing."""
        plain = self.miou("plain", "all")
        return all(self.miou(name, "all") > plain for name, _ in self.counts if name != "plain")

    def to_json(self) -> dict[str, Any]:
        """Returns every number as JSON data."""
        return {
            "seed": self.seed,
            "scenes": self.scenes,
            "holds": self.holds,
            "tuned": {name: dataclasses.asdict(one) for name, one in self.tuned.items()},
            "miou": {name: {rule: self.miou(name, rule) for rule in RULES} for name in self.tuned},
        }


# A named edge.
@functools.partial(jax.jit, static_argnames="readers")
def dense_cosines(
    readers: tuple[Reader, ...],
    params: Params,
    rows: Float[Array, "C E"],
    image: UInt8[Array, "B H W 3"],
) -> tuple[Float[Array, "B C H W"], ...]:
    """Compares each pixel with each text, for every reader.

    One program for all of them: what comes before the last block is computed once.
    """
    return tuple(reader.dense(params, image, rows) for reader in readers)


def cosine_maps(
    model: Any, scenes: Sequence[Scene], variants: Sequence[str], **settings: Any
) -> dict[str, Float[np.ndarray, "S C H W"]]:
    """Computes each pixel's cosine with each of the 30 names, by variant.

    Args:
        model: a name, a folder, or a loaded CLIP.
        scenes: all of one size.
        variants: keys of `LAST_BLOCKS`.
        **settings: of `clip_dense`.
    """
    methods = [load(model, **{**settings, "variant": name}) for name in variants]
    text = methods[0].classes(CLASS_NAMES, ())
    readers = tuple(method.reader for method in methods)
    run = functools.partial(dense_cosines, readers, methods[0].params, text.rows)
    every = in_chunks(run, np.stack([s.image for s in scenes]), _CHUNK)
    named = zip(variants, every, strict=True)
    return {name: maps[:, : len(CLASS_NAMES)] for name, maps in named}


def labels(
    cosines: Float[np.ndarray, "S C H W"], rule: str, tuned: Tuned | None = None
) -> Int[np.ndarray, "S H W"]:
    """Labels pixels by one of `RULES`: 0 background, i + 1 class i."""
    if rule == "threshold":
        if tuned is None:
            raise expected("tuned", "settings", "none", "call tune first")
        probs = softmax(tuned.scale * cosines[:, : len(THINGS)], axis=1)
        return np.where(probs.max(axis=1) < tuned.threshold, 0, probs.argmax(axis=1) + 1)
    best = cosines.argmax(axis=1) + 1
    return np.where(best > len(THINGS), 0, best) if rule == "stuff_texts" else best


def _count(
    scenes: Sequence[Scene], found: Int[np.ndarray, "S H W"], rule: str
) -> Int[np.ndarray, "C C"]:
    size = 1 + (len(CLASS_NAMES) if rule == "all" else len(THINGS))
    total = np.zeros((size, size), np.int64)
    for one, label in zip(scenes, found, strict=True):
        truth = one.semantic
        if rule != "all":
            truth = np.where(truth > len(THINGS), 0, truth)
        total += confusion_matrix(truth, label, size, ignore=None)
    return total


def tune(scenes: Sequence[Scene], cosines: Float[np.ndarray, "S C H W"]) -> Tuned:
    """Chooses temperature and threshold by mIoU with background, on validation scenes."""
    things = cosines[:, : len(THINGS)]
    best, winner = (-1.0, Tuned(SCALES[0], THRESHOLDS[0])), things.argmax(axis=1) + 1
    for scale in SCALES:
        top = softmax(scale * things, axis=1).max(axis=1)
        for threshold in THRESHOLDS:
            found = np.where(top < threshold, 0, winner)
            score = metrics(_count(scenes, found, "threshold")).miou["gt"]
            if score > best[0]:
                best = (score, Tuned(scale, threshold))
    return best[1]


def measure(
    model: Any = "miniature",
    *,
    seed: int = 0,
    scenes: int = 200,
    validation_scenes: int = 40,
    variants: Sequence[str] = tuple(LAST_BLOCKS),
    progress: Callable[[str], None] | None = None,
    **settings: Any,
) -> DenseScores:
    """Measures variants on scenes of one world.

    Args:
        model: a name, a folder, or a loaded CLIP.
        seed: of the world. scenes: from the beginning of the test stream.
        validation_scenes: of the validation stream, for the rule "threshold".
        variants: keys of `LAST_BLOCKS`.
        progress: called with what is being done.
        **settings: of `clip_dense`, in place of the model's own.
    """
    if scenes < 1 or validation_scenes < 1:
        raise expected("scenes", "at least 1", str(min(scenes, validation_scenes)), "ask for some")
    known = [scene("val", i, seed=seed) for i in range(validation_scenes)]
    truths = [scene("test", i, seed=seed) for i in range(scenes)]
    say = progress or (lambda text: None)
    say("validation scenes")
    maps = cosine_maps(model, known, variants, **settings)
    tuned = {name: tune(known, maps[name]) for name in variants}
    counts: dict[tuple[str, str], Any] = {}
    for begin in range(0, scenes, _CHUNK):
        say(f"test scene {begin + 1} of {scenes}")
        some = truths[begin : begin + _CHUNK]
        maps = cosine_maps(model, some, variants, **settings)
        for name in variants:
            for rule in RULES:
                found = _count(some, labels(maps[name], rule, tuned[name]), rule)
                counts[name, rule] = counts.get((name, rule), 0) + found
    return DenseScores(seed, scenes, tuned, counts)

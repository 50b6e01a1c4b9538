"""SegCLIP against its rivals on scenes of the miniature world: tuned, measured, with intervals."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from openseg_jax.errors import UserError
from openseg_jax.eval.confusion import confusion_matrix
from openseg_jax.eval.miniature_segclip import (
    CHUNK,
    CLASSES,
    TEMPERATURES,
    THRESHOLDS,
    TOP,
    WINDOWS,
    PatchText,
    RegionText,
    all_background,
    foreground,
    kmeans_groups,
    matrices,
    oracle_labels,
    paint,
    things_only,
)
from openseg_jax.miniature.streams import Scene, scene
from openseg_jax.types import Float, Int
from openseg_jax.weights.load import load_clip
from openseg_jax.weights.loaded import LoadedClip

BACKGROUND_FACTOR = 3.0
"""How many times the all-background score SegCLIP has to reach."""

VARIANTS = ("segclip", "patch_text", "patch_text_top", "segclip_oracle", "kmeans_oracle")
RIVALS = {"patch_text": None, "patch_text_top": TOP}
"""Variant -> how many classes a picture may hold."""

_DRAWS = 1000


@dataclasses.dataclass(frozen=True)
class Tuned:
    """Settings chosen on validation scenes.

    Attributes:
        threshold: variant -> below it is background. temperature: of the rivals' softmax.
        stuff: variant -> whether the names of stuff compete.
        windows: variant -> one of `WINDOWS`.
        foreground: variant -> mean IoU over things on those scenes.
    """

    threshold: dict[str, float]
    temperature: dict[str, float]
    stuff: dict[str, bool]
    windows: dict[str, float]
    foreground: dict[str, float]


@dataclasses.dataclass(frozen=True)
class ContestScores:
    """What was counted on scenes of one or several worlds.

    Attributes:
        name: of the model. seeds: of the worlds. scenes: how many in all.
        tuned: on each world's validation stream.
        counts: variant -> Int[scenes C C], a confusion matrix a scene.
        all_background: mIoU, background included, of saying background everywhere.
        groups: regions that SegCLIP used in a scene, on average.
    """

    name: str
    seeds: tuple[int, ...]
    scenes: int
    tuned: tuple[Tuned, ...]
    counts: dict[str, Int[np.ndarray, "n C C"]]
    all_background: float
    groups: float

    def foreground(self, variant: str) -> float:
        """Returns a variant's mean IoU over things, [0, 1]."""
        return foreground(self.counts[variant].sum(0))

    def interval(self, variant: str, rival: str | None = None) -> tuple[float, float]:
        """Returns the 95 % interval of a variant, or of its lead over a rival, over scenes."""
        scores = bootstrap(self.counts[variant])
        if rival is not None:
            scores = scores - bootstrap(self.counts[rival])
        low, high = np.quantile(scores, [0.025, 0.975])
        return float(low), float(high)

    @property
    def passed(self) -> bool:
        """Whether SegCLIP beats the frozen rival and three times the all-background score."""
        ours = self.foreground("segclip")
        least = BACKGROUND_FACTOR * self.all_background
        return ours > max(self.foreground("patch_text"), least)

    def to_json(self) -> dict[str, Any]:
        """Returns every number as JSON data."""
        return {
            "name": self.name,
            "seeds": list(self.seeds),
            "scenes": self.scenes,
            "all_background": self.all_background,
            "groups": self.groups,
            "foreground": {
                name: {"mean": self.foreground(name), "interval": list(self.interval(name))}
                for name in self.counts
            },
            "lead": list(self.interval("segclip", "patch_text")),
            "tuned": [dataclasses.asdict(one) for one in self.tuned],
            "passed": self.passed,
        }


def bootstrap(counts: Int[np.ndarray, "n C C"], seed: int = 0) -> Float[np.ndarray, " draws"]:
    """Computes the mean IoU over things of redrawn scenes; the same draws for equal n."""
    count = len(counts)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=_DRAWS)
    sums = (drawn @ counts.reshape(count, -1)).reshape(_DRAWS, CLASSES, CLASSES)
    hit = np.diagonal(sums, axis1=1, axis2=2)[:, 1:]
    truth, union = sums.sum(2)[:, 1:], (sums.sum(1) + sums.sum(2))[:, 1:] - hit
    iou = np.divide(hit, union, out=np.zeros(hit.shape), where=union > 0)
    return (iou * (truth > 0)).sum(1) / np.maximum((truth > 0).sum(1), 1)


class Contest:
    """SegCLIP and its rivals, ready to be tuned and measured.

    Args:
        model: a folder with a SegCLIP, or loaded weights.
        clip: the frozen CLIP of the rivals, the one that SegCLIP started from.
    """

    def __init__(self, model: str | LoadedClip, clip: str | LoadedClip = "miniature") -> None:
        loaded = load_clip(model)
        frozen = load_clip(clip)
        self.name = loaded.provenance.get("name", "segclip")
        self.regions = RegionText(loaded)
        # One that encodes; `tune` gives each name its own settings.
        self.rivals = dict.fromkeys(RIVALS, PatchText(frozen))
        centers = self.regions.method.reader.model.config.centers
        self.kmeans = kmeans_groups(self.rivals["patch_text"], centers)
        self.tuned: Tuned | None = None

    def tune(self, scenes: Sequence[Scene]) -> Tuned:
        """Chooses thresholds and temperatures by the mean IoU over things on validation scenes."""
        images, truths = np.stack([s.image for s in scenes]), [things_only(s) for s in scenes]
        best: dict[str, tuple[float, ...]] = {}
        for windows, stuff in itertools.product(WINDOWS, (False, True)):
            found = (*best_threshold(self.regions(images, stuff, windows), truths), windows, stuff)
            best["segclip"] = max(found, best.get("segclip", found))
        for windows in WINDOWS:
            cosines = self.rivals["patch_text"].cosines(images, windows)
            for (name, top), stuff, temperature in itertools.product(
                RIVALS.items(), (False, True), TEMPERATURES
            ):
                scores = self.rivals[name].tuned(temperature, top, stuff).heat(cosines)
                found = (*best_threshold(scores, truths), windows, stuff, temperature)
                best[name] = max(found, best.get(name, found))
        for name, top in RIVALS.items():
            self.rivals[name] = self.rivals[name].tuned(best[name][4], top, bool(best[name][3]))
        self.tuned = Tuned(
            threshold={name: found[1] for name, found in best.items()},
            temperature={name: best[name][4] for name in RIVALS},
            stuff={name: bool(found[3]) for name, found in best.items()},
            windows={name: found[2] for name, found in best.items()},
            foreground={name: found[0] for name, found in best.items()},
        )
        return self.tuned

    def labels(
        self, scenes: Sequence[Scene]
    ) -> tuple[dict[str, list[Int[np.ndarray, "S S"]]], Int[np.ndarray, "B S S"]]:
        """Labels scenes with every variant, and returns SegCLIP's groups beside."""
        if self.tuned is None:
            raise UserError("tune: expected thresholds, got none; call tune first")
        images, truths = np.stack([s.image for s in scenes]), [things_only(s) for s in scenes]
        stuff, windows = self.tuned.stuff, self.tuned.windows
        scores = {"segclip": self.regions(images, stuff["segclip"], windows["segclip"])}
        encoder = self.rivals["patch_text"]
        cosines = {n: encoder.cosines(images, n) for n in {windows[name] for name in RIVALS}}
        for name, rival in self.rivals.items():
            scores[name] = rival.heat(cosines[windows[name]])
        out = {
            name: [paint(row, self.tuned.threshold[name]) for row in found]
            for name, found in scores.items()
        }
        groups = self.regions.groups(images)
        for name, found in (("segclip_oracle", groups), ("kmeans_oracle", self.kmeans(images))):
            out[name] = [oracle_labels(g, t) for g, t in zip(found, truths, strict=True)]
        return out, groups

    def measure(
        self,
        *,
        seed: int = 0,
        stream: str = "test",
        scenes: int = 200,
        validation_scenes: int | None = None,
        size: int = 96,
        progress: Callable[[int, int], None] | None = None,
    ) -> ContestScores:
        """Tunes on the validation stream of a world and measures on another one.

        Args:
            seed: of the world.
            stream: "test" for numbers to report, "val" to choose recipes by.
            scenes: from the beginning of the stream.
            validation_scenes: for the thresholds; with stream "val" they lie behind `scenes`. None
                takes as many as `scenes`, 100 at most.
            size: side of a scene, pixels.
            progress: called with (scenes done, scenes in all).
        """
        if validation_scenes is None:
            validation_scenes = min(scenes, 100)
        first = scenes if stream == "val" else 0
        chosen = range(first, first + validation_scenes)
        tuned = self.tune([scene("val", i, size, seed=seed) for i in chosen])
        counts: dict[str, list[np.ndarray]] = {name: [] for name in VARIANTS}
        truths, used = [], []
        for start in range(0, scenes, CHUNK):
            part = range(start, min(start + CHUNK, scenes))
            some = [scene(stream, i, size, seed=seed) for i in part]
            labels, groups = self.labels(some)
            now = [things_only(s) for s in some]
            for name, found in labels.items():
                counts[name].append(matrices(now, found))
            truths += now
            used += [len(np.unique(g)) for g in groups]
            if progress is not None:
                progress(part.stop, scenes)
        return ContestScores(
            self.name, (seed,), scenes, (tuned,),
            {name: np.concatenate(found) for name, found in counts.items()},
            all_background(truths), float(np.mean(used)),
        )  # fmt: skip


def best_threshold(
    scores: Float[np.ndarray, "B S S C"], truths: Sequence[Int[np.ndarray, "S S"]]
) -> tuple[float, float]:
    """Finds the threshold with the best mean IoU over things; returns the IoU and it."""
    best, winner = scores.max(axis=-1), scores.argmax(axis=-1) + 1
    highest, truth = best.max(axis=(1, 2), keepdims=True), np.stack(truths)
    grid = np.unique(np.quantile(best, np.linspace(0.0, 0.98, THRESHOLDS)))
    found = []
    for threshold in grid.tolist():
        # `paint`, for all pictures at once.
        below = best < np.minimum(threshold, highest)
        labels = np.where(below | (winner >= CLASSES), 0, winner)
        matrix = confusion_matrix(truth, labels, CLASSES, ignore=None)
        found.append((foreground(matrix), threshold))
    return max(found)


def pool(found: Sequence[ContestScores]) -> ContestScores:
    """Puts the scenes of several worlds together."""
    return ContestScores(
        name=found[0].name,
        seeds=tuple(seed for one in found for seed in one.seeds),
        scenes=sum(one.scenes for one in found),
        tuned=tuple(t for one in found for t in one.tuned),
        counts={n: np.concatenate([one.counts[n] for one in found]) for n in found[0].counts},
        all_background=float(np.mean([one.all_background for one in found])),
        groups=float(np.mean([one.groups for one in found])),
    )


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Returns mean and half the 95 % interval of a few runs, by Student's t."""
    from scipy.stats import t

    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return mean, float("nan")
    return mean, float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / count**0.5)

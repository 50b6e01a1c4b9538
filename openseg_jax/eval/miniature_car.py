"""CaR on the miniature world: the recurrence, one pass, and the simplest honest rival.

All three are given the whole vocabulary of 30 names for every scene and share models, prompts,
CRF and settings. They differ in how texts that are not in the picture are got rid of:

- "recurrence": CaR, which drops texts step by step;
- "one_pass": its first step with nothing dropped;
- "image_filter": texts whose zero-shot similarity with the whole image is above one threshold,
  then one pass with those. The threshold is tuned for mIoU on the validation stream.

Numbers are about the miniature world only; they say nothing about photographs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from openseg_jax.errors import UserError, expected
from openseg_jax.eval.confusion import Metrics, confusion_matrix, metrics
from openseg_jax.eval.gates import embed_images
from openseg_jax.methods.base import load_segmenter
from openseg_jax.methods.car import CaR, CarResult
from openseg_jax.miniature.streams import Scene, scene
from openseg_jax.miniature.world import CLASS_NAMES
from openseg_jax.text.classifier import text_classifier
from openseg_jax.types import Bool, Float, Int, UInt8

CAR_GATE = 0.10
"""What the recurrence has to gain over one pass, in mIoU."""

VARIANTS = ("recurrence", "one_pass", "image_filter")
FILTER_GRID = 8
"""Thresholds that the filter's tuning tries: quantiles of the similarities on validation scenes."""


@dataclasses.dataclass(frozen=True)
class CarScores:
    """mIoU of the three variants on the same scenes.

    Attributes:
        seed: of the world. scenes: how many, from the beginning of the stream.
        threshold: of the image filter, tuned on `validation_scenes` of the validation stream.
        measured: variant -> metrics over background and the 30 classes.
    """

    seed: int
    scenes: int
    threshold: float
    validation_scenes: int
    measured: dict[str, Metrics]

    @property
    def miou(self) -> dict[str, float]:
        """Variant -> mIoU over the classes in the ground truth."""
        return {name: found.miou["gt"] for name, found in self.measured.items()}

    @property
    def gain(self) -> float:
        """mIoU of the recurrence less that of one pass."""
        return self.miou["recurrence"] - self.miou["one_pass"]

    def to_json(self) -> dict[str, Any]:
        """Returns every number as JSON data; undefined ones are None."""
        return {
            "seed": self.seed,
            "scenes": self.scenes,
            "threshold": self.threshold,
            "validation_scenes": self.validation_scenes,
            "gain": self.gain,
            "variants": {
                name: {
                    "miou": found.miou,
                    "pixel_accuracy": found.pixel_accuracy,
                    "iou": {
                        label: None if np.isnan(iou) else float(iou)
                        for label, iou in zip(CLASS_NAMES, found.iou[1:], strict=True)
                    },
                }
                for name, found in self.measured.items()
            },
        }


class Contest:
    """The three variants on one model, ready to segment scenes.

    Attributes:
        car: with the model's own settings. text: the whole vocabulary.
        threshold: of the image filter; None until `tune` or the caller sets it.
    """

    def __init__(self, model: Any = "miniature", **settings: Any) -> None:
        car = load_segmenter("car", model, **settings)
        if not isinstance(car, CaR):
            raise UserError("model: expected weights for CaR; give a CLIP's name or folder")
        self.car = car
        # With a threshold of 0 no text is dropped, so the recurrence ends after its first step.
        config = dataclasses.replace(
            car.config, confidence_threshold=0.0, raw_names_first_step=False
        )
        self.single = CaR(car.cam, car.classifier, config, dtype=car.dtype)
        self.text = car.classes(CLASS_NAMES)
        templates = car.config.templates or (car.config.cam_template,)
        self.classifier = text_classifier(car.classifier, CLASS_NAMES, templates)
        self.threshold: float | None = None

    def similarity(self, images: UInt8[np.ndarray, "B H W 3"]) -> Float[np.ndarray, "B C"]:
        """Compares whole images with the names, as zero-shot CLIP does."""
        chunk = min(len(images), 64)
        return embed_images(self.car.classifier, list(images), chunk=chunk) @ self.classifier.T

    def recurrence(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        observe: Callable[[dict[str, Any]], None] | None = None,
    ) -> CarResult:
        """Segments with CaR."""
        return self.car.predict(image, self.text, observe=observe)

    def one_pass(self, image: UInt8[np.ndarray, "H W 3"]) -> CarResult:
        """Segments with the first step's masks of all texts."""
        return self.single.predict(image, self.text)

    def image_filter(
        self, image: UInt8[np.ndarray, "H W 3"], threshold: float | None = None
    ) -> CarResult:
        """Segments in one pass with the texts that pass the filter; the best one always does."""
        threshold = self.threshold if threshold is None else threshold
        if threshold is None:
            raise expected("threshold", "a number", "none", "call tune first")
        return self._with(image, _passing(self.similarity(image[None])[0], threshold))

    def _with(self, image: UInt8[np.ndarray, "H W 3"], chosen: Bool[np.ndarray, " C"]) -> CarResult:
        text = dataclasses.replace(self.text, valid=np.asarray(chosen))
        return self.single.predict(image, text)

    def tune(self, scenes: Sequence[Scene]) -> float:
        """Sets the filter's threshold to the one with the best mIoU on `scenes`.

        Args:
            scenes: of the validation stream, never of the test stream.
        Returns:
            the threshold, a cosine similarity.
        """
        similar = self.similarity(np.stack([s.image for s in scenes]))
        # About one to ten texts of 30 pass.
        grid = np.quantile(similar, np.linspace(0.68, 0.97, FILTER_GRID))
        # Neighbouring thresholds often let the same texts pass.
        known: dict[tuple[int, bytes], Int[np.ndarray, "H W"]] = {}

        def labels(i: int, threshold: float) -> Int[np.ndarray, "H W"]:
            chosen = _passing(similar[i], threshold)
            key = (i, chosen.tobytes())
            if key not in known:
                known[key] = self._with(scenes[i].image, chosen).label_map()
            return known[key]

        scores = [
            _miou([(s, labels(i, threshold)) for i, s in enumerate(scenes)]) for threshold in grid
        ]
        self.threshold = float(grid[int(np.argmax(scores))])
        return self.threshold


def car_miou(
    model: Any = "miniature",
    *,
    seed: int = 0,
    stream: str = "test",
    scenes: int = 100,
    validation_scenes: int = 24,
    size: int = 96,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> CarScores:
    """Measures the three variants on scenes of one world.

    Args:
        model: a name, a folder, or a loaded CLIP.
        seed: of the world.
        stream: "test" for numbers to report, "val" to choose settings by.
        scenes: from the beginning of the stream.
        validation_scenes: of the validation stream, for the image filter's threshold.
        size: side of a scene, pixels.
        progress: called with (scenes done, scenes in all).
        **settings: of CaR, in place of the model's own.
    Returns:
        mIoU and everything else that the confusion matrices say.
    """
    contest = Contest(model, **settings)
    contest.tune([scene("val", i, size, seed=seed) for i in range(validation_scenes)])
    truths = [scene(stream, i, size, seed=seed) for i in range(scenes)]
    return score(contest, truths, seed, validation_scenes, progress=progress)


def score(
    contest: Contest,
    truths: Sequence[Scene],
    seed: int,
    validation_scenes: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> CarScores:
    """Measures a tuned contest on given scenes.

    Args:
        contest: with its threshold set.
        truths: scenes with their semantic maps.
        seed: of their world, for the record.
        validation_scenes: how many the threshold was tuned on, for the record.
        progress: called with (scenes done, scenes in all).
    Returns:
        the scores.
    """
    pairs: dict[str, list[tuple[Scene, Int[np.ndarray, "H W"]]]] = {name: [] for name in VARIANTS}
    for i, truth in enumerate(truths):
        for name in VARIANTS:
            pairs[name].append((truth, getattr(contest, name)(truth.image).label_map()))
        if progress is not None:
            progress(i + 1, len(truths))
    return CarScores(
        seed=seed,
        scenes=len(truths),
        threshold=float(contest.threshold or 0.0),
        validation_scenes=validation_scenes,
        measured={name: metrics(_matrix(found)) for name, found in pairs.items()},
    )


def _passing(similar: Float[np.ndarray, " C"], threshold: float) -> Bool[np.ndarray, " C"]:
    return (similar > threshold) | (similar == similar.max())


def _matrix(pairs: Iterable[tuple[Scene, Int[np.ndarray, "H W"]]]) -> Int[np.ndarray, "C C"]:
    count = len(CLASS_NAMES) + 1
    return sum(
        (confusion_matrix(s.semantic, found, count, ignore=None) for s, found in pairs),
        np.zeros((count, count), np.int64),
    )


def _miou(pairs: Iterable[tuple[Scene, Int[np.ndarray, "H W"]]]) -> float:
    return metrics(_matrix(pairs)).miou["gt"]

"""What CaR's recurrence did to one image, step by step, for people to look at.

    result, steps = trace(car, image, ["zebra", "grass", "teapot"])
    steps[0].texts      # every text that was alive, with its score and whether it stayed
    steps[0].drawings   # for a few of them: mask and visually prompted picture

The programs that run are those of `CaR.predict`; only the drawing of a few masks is added.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from openseg_jax.inputs.images import fit_long_side
from openseg_jax.methods.car import LOOK, CaR, CarResult
from openseg_jax.methods.car_texts import CarText
from openseg_jax.types import Bool, Float, UInt8

__all__ = ["Drawing", "Step", "StepText", "chosen", "trace"]

DROPPED_SHOWN = 3
"""So many of a step's drawings are kept for texts that it dropped, if it dropped that many."""


@dataclasses.dataclass(frozen=True)
class StepText:
    """A text that was alive in a step: its score there, in [0, 1], and whether it stayed."""

    name: str
    score: float
    kept: bool


@dataclasses.dataclass(frozen=True)
class Drawing:
    """What the classifier was shown for one text.

    Attributes:
        text: the text with its score.
        mask: Bool[h w], what its activation map proposed.
        prompted: UInt8[h w 3], the picture with the visual prompt at that mask.
    """

    text: StepText
    mask: Bool[np.ndarray, "h w"]
    prompted: UInt8[np.ndarray, "h w 3"]


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the recurrence.

    Attributes:
        number: from 1.
        threshold: θ; texts with this score or less are dropped.
        texts: all that were alive, in the order given.
        drawings: of a few of them, best score first.
        rescued: no text exceeded θ, and the best one stayed for that reason alone.
        last: nothing was dropped, so this step's masks are the result.
    """

    number: int
    threshold: float
    texts: tuple[StepText, ...]
    drawings: tuple[Drawing, ...]
    rescued: bool
    last: bool

    @property
    def dropped(self) -> tuple[StepText, ...]:
        """The texts that died in this step."""
        return tuple(text for text in self.texts if not text.kept)


def chosen(
    scores: Float[np.ndarray, " K"], kept: Bool[np.ndarray, " K"], most: int = LOOK
) -> list[int]:
    """Picks the texts of a step that are drawn: the best, with some that were dropped among them.

    Args:
        scores: of the alive texts. kept: those that stay.
        most: at most so many.
    Returns:
        rows, best score first.
    """
    order = np.argsort(-scores, kind="stable").tolist()
    dropped = [row for row in order if not kept[row]]
    stayed = [row for row in order if kept[row]]
    dropped = dropped[: max(most - len(stayed), min(DROPPED_SHOWN, most // 2))]
    taken = {*stayed[: most - len(dropped)], *dropped}
    return [row for row in order if row in taken]


def trace(
    car: CaR,
    image: UInt8[np.ndarray, "H W 3"],
    text: CarText | Sequence[str],
    *,
    side: int = 256,
    watch: Callable[[Step], None] | None = None,
) -> tuple[CarResult, list[Step]]:
    """Segments one image as `CaR.predict` does, and keeps what happened.

    Args:
        car: the segmenter.
        image: RGB bytes of any size.
        text: from `car.classes`, or names.
        side: drawings are reduced to this long side, pixels, so that many steps need little memory.
        watch: called with each step when it is done.
    Returns:
        the result, and the steps in order.
    """
    words = text if isinstance(text, CarText) else car.classes(text)
    height, width = image.shape[:2]
    steps: list[Step] = []

    def look(event: dict[str, Any]) -> list[int]:
        return chosen(event["scores"], np.isin(event["alive"], event["kept"]))

    def observe(event: dict[str, Any]) -> None:
        stays = np.isin(event["alive"], event["kept"])
        scores, threshold = event["scores"], car.config.confidence_threshold
        texts = tuple(
            StepText(words.names[place], float(score), bool(kept))
            for place, score, kept in zip(event["alive"], scores, stays, strict=True)
        )
        drawings = tuple(
            Drawing(
                texts[row],
                fit_long_side(_bytes(mask[:height, :width]), side)[..., 0] > 127,
                fit_long_side(np.ascontiguousarray(picture[:height, :width]), side),
            )
            for row, mask, picture in zip(
                event["rows"], event["masks"], event["prompted"], strict=True
            )
        )
        rescued = not (scores > np.float32(threshold)).any()
        steps.append(Step(len(steps) + 1, threshold, texts, drawings, rescued, False))
        if watch is not None:
            watch(steps[-1])

    result = car.predict(image, words, observe=observe, look=look)
    steps[-1] = dataclasses.replace(steps[-1], last=True)
    return result, steps


def _bytes(mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=-1)

"""One request, from what was chosen to the result; knows nothing of pages."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from openseg_jax import api
from openseg_jax.errors import UserError, expected
from openseg_jax.types import UInt8
from openseg_jax.web.insides import Insides, watched
from openseg_jax.web.models import Models, Programs

__all__ = ["Answer", "Task", "segment"]

CANVAS = 128
"""CaR pads pictures that are larger than this to multiples of it, pixels: few sizes to compile,
and padding changes nothing."""

LABEL_PIXELS = 80_000_000
"""Labels and own background texts, times segmented pixels: each has a map of float32."""


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What to do.

    Attributes:
        image: UInt8[H W 3]. names: distinct labels. merged: duplicates, for the notes.
        method, model: names as shown. settings: of the method.
        background: None takes the method's own, [] none.
        max_side: segment at most at this long side, pixels.
    """

    image: UInt8[np.ndarray, "H W 3"]
    names: list[str]
    method: str = "car"
    model: str = "miniature"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    background: list[str] | None = None
    max_side: int = 384
    merged: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """What came of it: the result, what went on inside, and the seconds it took."""

    result: api.Segmentation
    insides: Insides
    seconds: float


def segment(
    task: Task,
    models: Models,
    programs: Programs,
    tell: Callable[[str], None] | None = None,
) -> Answer:
    """Carries out one task.

    Args:
        task: what to do.
        models: where segmenters come from.
        programs: counts what has to be compiled.
        tell: called with one line about how far it is.
    Raises:
        UserError: naming what cannot be done, and what to change.
    """
    started = time.monotonic()
    say = tell or (lambda line: None)
    say("loading the model")
    settings = dict(task.settings)
    if task.method == "car" and min(task.max_side, max(task.image.shape)) > CANVAS:
        settings["canvas"] = CANVAS
    segmenter = models.segmenter(task.method, task.model, settings)
    limit = api.side_limit(segmenter, task.image.shape[:2], task.max_side)
    _check_memory(task, limit)
    size = api.pictures.fit_long_side(task.image, limit).shape[:2]
    chosen = tuple(sorted(map(str, settings.items())))
    new = programs.use(task.method, task.model, chosen, size, _shape_of_texts(task))
    say("segmenting" + (" (what is new is compiled first)" if new else ""))
    seen, insides = watched(segmenter, say)
    (result,) = api.segment_batch(
        seen, [task.image], task.names, background=task.background, max_side=task.max_side,
        merged=task.merged, progress=lambda share: say(f"labels in rounds: {share:.0%}"),
    )  # fmt: skip
    result = dataclasses.replace(result, record=models.veiled(result.record))
    return Answer(result, insides, time.monotonic() - started)


def _shape_of_texts(task: Task) -> tuple[int, ...]:
    """Counts what vocabularies are padded to eights of: texts of one shape share programs."""
    synonyms = [name.count(",") + 1 for name in task.names]
    counts = (len(task.names), sum(synonyms), len(task.background or ()))
    return (max(synonyms), *(-(-count // 8) for count in counts))


def _check_memory(task: Task, limit: int) -> None:
    if limit < 1:
        raise expected("longest side", "at least 1 pixel", str(limit), "move the slider")
    height, width = task.image.shape[:2]
    scale = min(1.0, limit / max(height, width))
    rivals = len(task.background or ())
    texts = len(task.names) + rivals
    pixels = height * width * scale**2
    if texts * pixels > LABEL_PIXELS:
        side = int(max(height, width) * scale * (LABEL_PIXELS / (texts * pixels)) ** 0.5)
        said = f"{len(task.names)} and {rivals} of the background" if rivals else len(task.names)
        raise UserError(
            f"labels: {said} at {limit} pixels need too much memory at once; move "
            f"'Longest side' to {side} or less, or give fewer labels"
        )

"""What went on inside a method while a picture was segmented, kept without a second run.

A method's own `segment` is called through a copy of the segmenter that keeps what passes by. The
result is the one that would have come without.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from openseg_jax.methods import car_trace, segclip_groups
from openseg_jax.methods.base import Segmenter
from openseg_jax.methods.car import CaR
from openseg_jax.methods.maft import Maft
from openseg_jax.methods.segclip import SegClip
from openseg_jax.types import Bool, Masks

__all__ = ["Insides", "Proposal", "watched"]

SHOWN_PROPOSALS = 24


@dataclasses.dataclass(frozen=True, eq=False)
class Proposal:
    """One proposed mask.

    Attributes:
        mask: Bool[h w].
        label: its best text; None is a background text.
        score: of that text, in [0, 1]. area: share of the picture, in [0, 1].
    """

    mask: Bool[np.ndarray, "h w"]
    label: str | None
    score: float
    area: float


@dataclasses.dataclass
class Insides:
    """What was kept; which of the three lists is filled depends on the method.

    Attributes:
        steps: CaR's recurrence. With more labels than compete at once, of the last round.
        proposals: MAFT's, best score first; `proposed` of them were made.
        windows: SegCLIP's.
    """

    steps: list[car_trace.Step] = dataclasses.field(default_factory=list)
    proposals: list[Proposal] = dataclasses.field(default_factory=list)
    proposed: int = 0
    windows: list[segclip_groups.Window] = dataclasses.field(default_factory=list)


def watched(
    segmenter: Segmenter, tell: Callable[[str], None] | None = None
) -> tuple[Segmenter, Insides]:
    """Returns a segmenter that does the same and keeps what goes on.

    Args:
        segmenter: any; a method without insides to show is returned as it is.
        tell: called with one line about how far it is.
    """
    inside = Insides()
    say = tell or (lambda line: None)
    if isinstance(segmenter, CaR):
        run: Any = _car(segmenter, inside, say)
    elif isinstance(segmenter, Maft):
        run = _maft(segmenter, inside)
    elif isinstance(segmenter, SegClip):
        run = _segclip(segmenter, inside)
    else:
        return segmenter, inside
    _ = segmenter.params  # moved to the device once, and shared with the copy
    seen: Any = copy.copy(segmenter)
    seen.segment = run
    return seen, inside


def _car(car: CaR, inside: Insides, say: Callable[[str], None]) -> Callable[..., Masks]:
    def watch(step: car_trace.Step) -> None:
        left = sum(text.kept for text in step.texts)
        say(f"step {step.number}: {left} of {len(step.texts)} labels stay")

    def segment(params: Any, image: Any, text: Any, valid: Any = None) -> Masks:
        result, inside.steps = car_trace.trace(car, image[0], text, watch=watch)
        return Masks(
            probs=jnp.asarray(result.masks[None], jnp.float32),
            scores=jnp.asarray(result.scores[None]),
            valid=jnp.asarray(result.alive[None]),
        )

    return segment


def _maft(maft: Maft, inside: Insides) -> Callable[..., Masks]:
    def segment(params: Any, image: Any, text: Any, valid: Any = None) -> Masks:
        masks = maft.segment(params, image, text, valid)
        scores = np.asarray(masks.scores)[0]
        (exist,) = np.nonzero(np.asarray(masks.valid)[0])
        inside.proposed = len(exist)
        best = exist[np.argsort(-scores[exist].max(axis=1), kind="stable")]
        inside.proposals = []
        for place in best[:SHOWN_PROPOSALS].tolist():
            label = int(scores[place].argmax())
            mask = np.asarray(masks.probs[0, place]) >= 0.5
            name = text.names[label] if label < text.count else None
            found = Proposal(mask, name, float(scores[place].max()), float(mask.mean()))
            inside.proposals.append(found)
        return masks

    return segment


def _segclip(segclip: SegClip, inside: Insides) -> Callable[..., Masks]:
    def segment(params: Any, image: Any, text: Any, valid: Any = None) -> Masks:
        masks = segclip.segment(params, image, text, valid)
        inside.windows = segclip_groups.windows(segclip, np.asarray(image[0]), text)
        return masks

    return segment

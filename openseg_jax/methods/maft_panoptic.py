"""Panoptic segments and instances from the masks that also give the label map.

MAFT is evaluated on semantic segmentation alone. Its masks carry class scores, so the usual rules
of mask classifiers apply to them too; what comes out is as good as the proposals are. Host code, on
one image's arrays.

Source: Cheng et al., "Per-Pixel Classification is Not All You Need for Semantic Segmentation",
2021, §3.4, and its follow-up's instance rule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from openseg_jax.errors import UserError, expected
from openseg_jax.types import Bool, Float, Int

__all__ = ["Instance", "Segment", "instances", "panoptic"]


@dataclasses.dataclass(frozen=True)
class Segment:
    """One panoptic segment.

    Attributes:
        id: its number in the segment map, from 1. label: class index, from 0.
        score: probability of the class, of the best mask in it. is_thing: counted one by one.
    """

    id: int
    label: int
    score: float
    is_thing: bool


@dataclasses.dataclass(frozen=True)
class Instance:
    """One instance: mask number, class index, score in [0, 1], and its pixels."""

    mask: int
    label: int
    score: float
    pixels: Bool[np.ndarray, "H W"]


def panoptic(
    probs: Float[np.ndarray, "M H W"],
    scores: Float[np.ndarray, "M C"],
    valid: Bool[np.ndarray, " M"],
    *,
    things: Iterable[int] | None = None,
    count: int | None = None,
    min_score: float = 0.5,
    overlap: float = 0.8,
) -> tuple[Int[np.ndarray, "H W"], list[Segment]]:
    """Gives every pixel to one mask, drops masks that others cover, and joins stuff.

    Args:
        probs, scores, valid: one image of `types.Masks`, with one score a mask and class.
        things: class indices whose masks stay apart; masks of other classes are joined into one
            segment a class. None: all are things.
        count: C without trailing backgrounds; masks whose best class is a background are dropped.
            None means all columns are classes.
        min_score: masks whose best class has less are dropped, in [0, 1].
        overlap: a mask is dropped where less than this share of its pixels (those ≥ ½) is left
            to it, in [0, 1].

    Returns:
        Segment numbers, 0 where no mask is left; and the segments in the order of their numbers.
    """
    probs, scores = _checked(probs, scores)
    columns: int = scores.shape[1] if count is None else count
    apart = set(range(columns)) if things is None else set(things)
    best, top = scores.argmax(axis=1), scores.max(axis=1)
    kept = np.flatnonzero(np.asarray(valid) & (top >= min_score) & (best < columns))
    segments: list[Segment] = []
    painted = np.zeros(probs.shape[1:], np.int32)
    if not len(kept):
        return painted, segments
    # Looked at in one pass over the masks: no copy of all of them is made.
    strongest = np.full(probs.shape[1:], -1.0, np.float32)
    owner = np.full(probs.shape[1:], -1, np.int32)
    for i in kept:
        claim = top[i] * probs[i]
        stronger = claim > strongest
        strongest[stronger], owner[stronger] = claim[stronger], i
    joined: dict[int, int] = {}
    for i in kept:
        inside = probs[i] >= 0.5
        left = (owner == i) & inside
        if not left.any() or left.sum() < overlap * inside.sum():
            continue
        label, score = int(best[i]), float(top[i])
        if label not in apart and label in joined:
            place = joined[label]
            old = segments[place - 1]
            segments[place - 1] = dataclasses.replace(old, score=max(old.score, score))
        else:
            place = len(segments) + 1
            joined[label] = place
            segments.append(Segment(place, label, score, label in apart))
        painted[left] = place
    return painted, segments


def instances(
    probs: Float[np.ndarray, "M H W"],
    scores: Float[np.ndarray, "M C"],
    valid: Bool[np.ndarray, " M"],
    *,
    things: Iterable[int] | None = None,
    count: int | None = None,
    most: int = 100,
) -> list[Instance]:
    """Ranks every pair of mask and class by probability times the mask's own certainty.

    Args:
        probs, scores, valid, count: as for `panoptic`.
        things: class indices that count; None means all.
        most: at most so many instances.

    Returns:
        Best first. The score is the class probability times the mean of the mask over its pixels
        (those ≥ ½); a mask without one is no instance.
    """
    if most < 1:
        raise expected("most", "at least 1", str(most), "try 100")
    probs, scores = _checked(probs, scores)
    columns: int = scores.shape[1] if count is None else count
    certain = np.zeros(len(probs))
    for i, mask in enumerate(probs):
        inside = mask >= 0.5
        certain[i] = mask[inside].mean() if inside.any() else 0.0
    ranked = scores[:, :columns] * (certain * np.asarray(valid))[:, None]
    if things is not None:
        ranked = ranked * np.isin(np.arange(columns), sorted(set(things)))
    order = np.argsort(-ranked, axis=None, kind="stable")[:most]
    found = []
    for place in order:
        mask, label = divmod(int(place), columns)
        if ranked[mask, label] > 0:
            pixels = probs[mask] >= 0.5
            found.append(Instance(mask, label, float(ranked[mask, label]), pixels))
    return found


def _checked(probs: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    probs, scores = np.asarray(probs), np.asarray(scores)
    if probs.ndim != 3 or scores.ndim != 2 or len(probs) != len(scores):
        raise UserError(
            f"probs, scores: expected [M H W] and [M C] of one image, got {list(probs.shape)} and "
            f"{list(scores.shape)}; take one image out of the batch"
        )
    return probs, scores

"""Any number of labels in bounded memory: rounds of a few hundred, and a last one of the survivors.

Up to `ROUND` labels compete together, as the method has it. More are first thinned in rounds of so
many; what survives its round, at most the `ROUND` best, competes in a last one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from openseg_jax.methods.base import Segmenter
from openseg_jax.ops.masks import to_label_map
from openseg_jax.types import Bool, Float, Int, UInt8

__all__ = ["ROUND", "compete", "needed"]

ROUND = 256
"""More labels than this compete in rounds of so many."""

# The jitted edge of `api.segment`.
_label_map = jax.jit(to_label_map, static_argnames="threshold")


def needed(segmenter: Segmenter, count: int) -> bool:
    """Whether so many labels are too many at once for a method that takes them in rounds."""
    return count > ROUND and getattr(segmenter, "rounds", True)


def compete(
    segmenter: Segmenter,
    images: UInt8[np.ndarray, "B h w 3"],
    names: list[str],
    background: Sequence[str] | None,
    told: Callable[[float], None],
) -> tuple[Int[np.ndarray, "B h w"], Float[np.ndarray, "B C"], Bool[np.ndarray, "B C"]]:
    """Segments pictures of one size with any number of labels, in bounded memory.

    Args:
        segmenter: the method.
        images: RGB.
        names: distinct labels.
        background: texts that may take pixels and are not reported; None takes the method's own.
        told: called with the share of the rounds that is done, in [0, 1].

    Returns:
        label maps (0 background, i + 1 label i); each label's score, and whether it survived.
    """
    if not needed(segmenter, len(names)):
        return _masks(segmenter, images, names, background)
    rivals = [names[i : i + ROUND] for i in range(0, len(names), ROUND)]
    rounds = []
    for some in rivals:
        rounds.append(_masks(segmenter, images, some, background)[1:])
        told(len(rounds) / (len(rivals) + 1))
    scores = np.concatenate([s for s, _ in rounds], axis=1)
    alive = np.concatenate([a for _, a in rounds], axis=1)
    labels = np.zeros(images.shape[:3], np.int32)
    for i in range(len(images)):
        best = np.argsort(-np.where(alive[i], scores[i], -1.0), kind="stable")[:ROUND]
        final = np.sort(best[alive[i][best]])
        last = [names[j] for j in final]
        scores[i], alive[i] = 0.0, False
        if not last:
            continue  # all of the picture is background, as SegCLIP may find
        painted, last_scores, last_alive = _masks(segmenter, images[i : i + 1], last, background)
        labels[i] = np.concatenate([[0], final + 1])[painted[0]]
        scores[i, final], alive[i, final] = last_scores[0], last_alive[0]
    return labels, scores, alive


def _masks(
    segmenter: Segmenter,
    images: Any,
    names: Sequence[str],
    background: Sequence[str] | None,
) -> tuple[Int[np.ndarray, "B h w"], Float[np.ndarray, "B C"], Bool[np.ndarray, "B C"]]:
    text = segmenter.classes(names, background)
    masks = segmenter.segment(segmenter.params, images, text)
    labels = np.array(_label_map(masks, threshold=getattr(segmenter, "threshold", 0.5)))
    count, alive = len(names), np.asarray(masks.valid)
    scores = np.asarray(alive if masks.scores is None else masks.scores, np.float32)
    if scores.ndim == 3:
        # One score a mask and class: a label lives by its pixels and has its best mask's score.
        labels[labels > count] = 0
        best = np.where(alive[..., None], scores, 0).max(axis=1)[:, :count]
        alive = np.stack([np.isin(np.arange(1, count + 1), found) for found in labels])
        return labels, np.where(alive, best, 0), alive
    return labels, scores[:, :count], alive[:, :count]

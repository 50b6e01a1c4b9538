"""The demo's pages about MAFT and SegCLIP: the same scenes, the same 30 names, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

_SHOWN = 4


@dataclasses.dataclass(frozen=True)
class Entry:
    """One column: which extra weights it needs, its method, what it is called, its settings."""

    extra: str
    method: str
    title: str
    settings: dict[str, Any]


_ENTRIES = (
    Entry("maft", "maft", "MAFT", {"proposals": "regions", "tower": "tuned"}),
    Entry("maft", "maft", "MAFT, frozen tower", {"proposals": "regions", "tower": "frozen"}),
    Entry("segclip", "segclip", "SegCLIP", {}),
)  # fmt: skip
_WORDS = (
    "MAFT names masks that were proposed without training (superpixels and their unions), all of "
    "them in one pass of the image tower, once with the tower fine-tuned on masks of 17 of the 24 "
    "things and once with CLIP's own; `openseg claim maft` measures what the fine-tuning gains. "
    "SegCLIP, where the weights have it, gathers patches into regions around learnt centres and "
    "names these. All get all 30 names for every scene."
)


@dataclasses.dataclass(frozen=True)
class Column:
    """What a method made of the scenes: label maps and their scores in [0, 1]."""

    title: str
    labels: list[np.ndarray]
    miou: float
    pixel_accuracy: float


def columns(clip: Any, truths: Sequence[Any]) -> list[Column]:
    """Segments the scenes with every method that the weights can do, besides CaR.

    Args:
        clip: loaded weights.
        truths: scenes of one size.
    """
    from openseg_jax import api
    from openseg_jax.eval.confusion import confusion_matrix, metrics
    from openseg_jax.methods.base import load_segmenter
    from openseg_jax.miniature.world import CLASS_NAMES

    found, count = [], len(CLASS_NAMES) + 1
    for entry in _ENTRIES:
        if entry.extra not in clip.extras:
            continue
        segmenter = load_segmenter(entry.method, clip, **entry.settings)
        results = api.segment_batch(segmenter, [t.image for t in truths], CLASS_NAMES)
        labels = [result.label_map for result in results]
        total = sum(
            confusion_matrix(truth.semantic, label, count, ignore=None)
            for truth, label in zip(truths, labels, strict=True)
        )
        scores = metrics(np.asarray(total))
        found.append(Column(entry.title, labels, scores.miou["gt"], scores.pixel_accuracy))
    return found


def section(found: Sequence[Column], truths: Sequence[Any]) -> Iterator[str]:
    """Writes the report's part about these methods; nothing where there are none.

    Args:
        found: from `columns`. truths: the same scenes.
    """
    from openseg_jax import report, viz
    from openseg_jax.miniature.world import CLASS_NAMES

    if not found:
        return
    yield report.heading("The other methods on the same scenes")
    yield report.paragraph(_WORDS)
    yield report.table(
        ("what", "mIoU, %", "pixel accuracy, %"),
        [(c.title, 100 * c.miou, 100 * c.pixel_accuracy) for c in found],
    )
    for number, truth in enumerate(truths[:_SHOWN]):
        maps = [("ground truth", truth.semantic), *((c.title, c.labels[number]) for c in found)]
        yield report.gallery(
            [
                report.figure(
                    viz.overlay(truth.image, np.asarray(labels), CLASS_NAMES, max_entries=8), title
                )
                for title, labels in maps
            ]
        )

"""SegCLIP's groups: what each learnt centre gathered in a window, and what it was called.

    for window in windows(segclip, image, segclip.classes(["zebra", "grass"])):
        window.groups       # region, label and score of each centre that won a pixel

This is what `SegClip.segment` sums up over windows, before it is summed up.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from openseg_jax.errors import check_shape
from openseg_jax.methods.segclip import Reader, SegClip
from openseg_jax.methods.segclip_texts import SegClipText
from openseg_jax.methods.windows import cut_windows
from openseg_jax.types import Bool, Params, UInt8

__all__ = ["Group", "Window", "windows"]


@dataclasses.dataclass(frozen=True)
class Group:
    """What one centre gathered.

    Attributes:
        centre: its number, from 0.
        region: Bool[h w], its pixels in the window.
        label: the best class; None where the region is background.
        score: of the best class, in [0, 1], background or not.
        nearest: the best class, background or not; "" where a background text is best.
    """

    centre: int
    region: Bool[np.ndarray, "h w"]
    label: str | None
    score: float
    nearest: str


@dataclasses.dataclass(frozen=True)
class Window:
    """A window as the model saw it, and its groups, largest first."""

    picture: UInt8[np.ndarray, "h w 3"]
    groups: tuple[Group, ...]


# The jitted edge of this file.
@functools.partial(jax.jit, static_argnames="reader")
def _windows(reader: Reader, params: Params, image: Any, text: SegClipText) -> Any:
    cuts = cut_windows(reader.plan, image)[0]
    return cuts, *reader.window_scores(params, cuts, text)


def windows(segclip: SegClip, image: UInt8[np.ndarray, "H W 3"], text: SegClipText) -> list[Window]:
    """Lists the windows of one image with their groups.

    Args:
        segclip: the segmenter.
        image: RGB bytes.
        text: from `segclip.classes`. A background text's name is not known here: regions that it
            wins are background.
    Returns:
        the windows, row by row; centres without a pixel are left out.
    """
    check_shape(image, "H W 3", "image", dtype="uint8", fix="give RGB bytes, channels last")
    found = _windows(segclip.reader, segclip.params, image[None], text.anonymous())
    cuts, scores, regions = map(np.asarray, found)
    return [
        Window(cut, _groups(own, region > 0.5, text))
        for cut, own, region in zip(cuts, scores, regions, strict=True)
    ]


def _groups(scores: np.ndarray, regions: np.ndarray, text: SegClipText) -> tuple[Group, ...]:
    groups = []
    for centre, (row, region) in enumerate(zip(scores, regions, strict=True)):
        if not region.any():
            continue
        winner, best = int(row.argmax()) - 1, int(row[1:].argmax())
        known = 0 <= winner < text.count
        groups.append(
            Group(
                centre, region, text.names[winner] if known else None, float(row[1 + best]),
                text.names[best] if best < text.count else "",
            )
        )  # fmt: skip
    return tuple(sorted(groups, key=lambda group: -int(group.region.sum())))

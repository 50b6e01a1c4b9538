"""Classify masks that you have: `openseg classify-masks` as a function.

    import openseg_jax
    found = openseg_jax.classify_masks("photo.jpg", "masks.png", ["zebra", "grass"])
    print(found.table())          # one row a mask: its best label, and every score
    found.save("out")             # JSON, CSV and an overlay

Masks come from any tool, in any of the formats of `inputs.masks`.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openseg_jax import api, viz
from openseg_jax.errors import UserError, check_shape
from openseg_jax.files import atomic_write
from openseg_jax.inputs import images as pictures
from openseg_jax.inputs.labels import merge_duplicates, without
from openseg_jax.inputs.masks import check_masks, read_masks
from openseg_jax.methods.maft import Maft
from openseg_jax.types import Bool, Float, UInt8

__all__ = ["OUTPUTS", "MaskScores", "classify_masks"]

OUTPUTS = ("_masks.json", "_masks.csv", "_masks_overlay.png")
"""Endings of the files that `MaskScores.save` writes."""


@dataclasses.dataclass(frozen=True)
class MaskScores:
    """What classified masks show.

    Attributes:
        image: UInt8[H W 3]. masks: Bool or Float[M H W] in [0, 1].
        mask_names: one a mask, e.g. its value in a label map.
        names: the C labels, duplicates merged.
        scores: Float[M C]: each mask's probability of each label. They sum to 1 with those of the
            backgrounds. A mask without a pixel has 0 everywhere.
        record: provenance. notes: what a person should know about this result.
    """

    image: UInt8[np.ndarray, "H W 3"]
    masks: np.ndarray
    mask_names: tuple[str, ...]
    names: tuple[str, ...]
    scores: Float[np.ndarray, "M C"]
    record: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def areas(self) -> Float[np.ndarray, " M"]:
        """Share of the picture that each mask covers, in [0, 1]; soft masks count in part."""
        return np.asarray([float(mask.mean()) for mask in self.masks])

    @property
    def labels(self) -> tuple[str, ...]:
        """Each mask's best label; "" for a mask without a pixel."""
        best, empty = self.scores.argmax(axis=1), ~self._filled()
        return tuple("" if empty[i] else self.names[best[i]] for i in range(len(best)))

    def table(self) -> list[dict[str, Any]]:
        """Returns a row for each mask: its name, best label and score, area, and all scores."""
        areas, labels = self.areas, self.labels
        return [
            {
                "mask": name,
                "label": labels[i],
                "score": round(float(self.scores[i].max()), 6),
                "area_share": round(float(areas[i]), 6),
                "scores": dict(
                    zip(self.names, np.round(self.scores[i].astype(float), 6).tolist(), strict=True)
                ),
            }
            for i, name in enumerate(self.mask_names)
        ]

    def to_json(self) -> dict[str, Any]:
        """Returns everything but picture and masks as JSON data."""
        return {
            "labels": list(self.names),
            "masks": self.table(),
            "notes": list(self.notes),
            "provenance": self.record,
        }

    def to_csv(self) -> str:
        """Returns the table as text: mask, label, score, area_share, then one column a label."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["mask", "label", "score", "area_share", *self.names])
        for row in self.table():
            writer.writerow(
                [row["mask"], row["label"], row["score"], row["area_share"],
                 *row["scores"].values()]
            )  # fmt: skip
        return out.getvalue()

    def overlay(self, *, alpha: float = 0.55) -> UInt8[np.ndarray, "h w 3"]:
        """Paints each mask in the colour of its best label, smaller masks on top."""
        painted = np.zeros(self.image.shape[:2], np.int32)
        best, filled = self.scores.argmax(axis=1), self._filled()
        for i in np.argsort(-self.areas, kind="stable"):
            if filled[i]:
                painted[self.masks[i] >= 0.5] = best[i] + 1
        shown = {self.names[b]: float(self.scores[best == b, b].max()) for b in np.unique(best)}
        return viz.overlay(self.image, painted, self.names, scores=shown, alpha=alpha)

    def save(self, folder: str | os.PathLike[str], stem: str = "result") -> list[Path]:
        """Writes STEM_masks.json, STEM_masks.csv and STEM_masks_overlay.png.

        Each is written whole or not at all; files of these names are replaced.

        Returns:
            the three paths.
        Raises:
            UserError: when they cannot be written.
        """
        paths = [Path(folder) / (stem + end) for end in OUTPUTS]
        text = json.dumps(self.to_json(), ensure_ascii=False, indent=1)
        with contextlib.ExitStack() as stack:
            aside = [stack.enter_context(atomic_write(path)) for path in paths]
            aside[0].write_text(text + "\n", encoding="utf-8")
            aside[1].write_text(self.to_csv(), encoding="utf-8")
            Image.fromarray(self.overlay()).save(aside[2], "PNG")
        return paths

    def _filled(self) -> Bool[np.ndarray, " M"]:
        return np.asarray([bool(mask.any()) for mask in self.masks])


def classify_masks(
    image: str | os.PathLike[str] | UInt8[np.ndarray, "H W 3"],
    masks: str | os.PathLike[str] | np.ndarray,
    labels: Iterable[str],
    *,
    model: Any = "miniature",
    background: Sequence[str] | None = None,
    max_side: int = api.MAX_SIDE,
    **settings: Any,
) -> MaskScores:
    """Scores every mask of a picture against free text, all masks in one pass of the image tower.

    Args:
        image: a path, or an RGB array.
        masks: a file or folder (see `inputs.masks`), or an array [M H W] of booleans, 0 and 1, or
            probabilities; any number, at the picture's size.
        labels: what the masks may show, in any words.
        model: "miniature" (bundled; knows only its own drawn world), a name or a folder.
        background: texts that compete and are not reported; None takes the weights' own, [] none.
        max_side: longer pictures are reduced to this many pixels before they are encoded.
        **settings: of MAFT, e.g. `temperature=50.0`.

    Returns:
        the scores. Masks without a pixel are kept, with no label, and a note says so.

    Raises:
        UserError: naming what is wrong with picture, masks, labels, names or settings, or where no
            mask has a pixel.
    """
    names, merged = merge_duplicates(labels)
    if not isinstance(image, np.ndarray):
        image = pictures.read_image(image)
    check_shape(image, "H W 3", "image", dtype="uint8", fix="give 8-bit RGB, channels last")
    size = image.shape[:2]
    if isinstance(masks, str | os.PathLike):
        masks, mask_names = read_masks(masks, size)
    else:
        masks = check_masks(masks, size)
        mask_names = tuple(str(i) for i in range(len(masks)))
    empty = [name for mask, name in zip(masks, mask_names, strict=True) if not mask.any()]
    if len(empty) == len(masks):
        raise UserError("masks: no foreground: no mask has a single pixel; draw at least one")
    segmenter = api.load("maft", model, api.frozen_settings({"proposals": "masks", **settings}))
    assert isinstance(segmenter, Maft)
    limit = api.side_limit(segmenter, size, max_side)
    small = pictures.fit_long_side(image, limit)
    text = segmenter.classes(names, None if background is None else without(background, names))
    scores = np.array(segmenter.classify(segmenter.params, small[None], masks[None], text))[0]
    scores[[not mask.any() for mask in masks]] = 0
    notes = api.label_notes(segmenter, names, merged)
    if empty:
        notes.append(f"masks without a pixel have no label: {', '.join(empty[:12])}")
    record = api.provenance(segmenter) | {
        "background": "default" if background is None else list(background),
        "size": list(size),
        "encoded_size": list(small.shape[:2]),
        "masks": len(masks),
    }
    return MaskScores(
        image, masks, mask_names, tuple(names), scores[:, : len(names)], record, tuple(notes)
    )

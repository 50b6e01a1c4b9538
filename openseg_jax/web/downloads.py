"""The files that a page offers, made in memory: nothing is written on the server."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

from PIL import Image

from openseg_jax import viz
from openseg_jax.api import Segmentation
from openseg_jax.inputs.images import fit_long_side
from openseg_jax.web.coco import coco_data
from openseg_jax.web.html import sampled

__all__ = ["Download", "downloads"]

OVERLAY_SIDE = 1280
"""Overlays are pictures for people; they are offered at most at this long side, pixels."""


@dataclasses.dataclass(frozen=True)
class Download:
    """A file: its name, media type, content, and what the page calls it."""

    name: str
    kind: str
    data: bytes
    title: str


def downloads(result: Segmentation) -> list[Download]:
    """Makes the palette PNG, the overlay, the COCO annotations, and our own JSON."""
    labels = viz.labels_png(result.label_map, result.names)
    return [
        Download("labels.png", "image/png", labels, "Label PNG"),
        Download("overlay.png", "image/png", _overlay(result), "Overlay"),
        Download("coco.json", "application/json", _json(coco_data(result)), "COCO JSON"),
        Download("result.json", "application/json", _json(result.to_json()), "Full JSON"),
    ]


def _overlay(result: Segmentation) -> bytes:
    image = fit_long_side(result.image, OVERLAY_SIDE)
    small = sampled(result.label_map, image.shape[:2])
    scores = {name: result.scores[name] for name in result.kept}
    file = io.BytesIO()
    Image.fromarray(viz.overlay(image, small, result.names, scores=scores)).save(file, "PNG")
    return file.getvalue()


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, ensure_ascii=False, indent=1) + "\n").encode()

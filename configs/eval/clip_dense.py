"""Dense CLIP, all its variants: `openseg evaluate --config clip_dense:voc21 --data-dir DIR`."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict
from openseg_jax.configs.eval import base

BENCHMARKS = (
    "voc21", "pc60", "coco_object", "voc20", "pc59", "coco_stuff", "cityscapes", "ade150",
)  # fmt: skip
VARIANTS = ("plain", "maskclip", "sclip", "clearclip", "naclip")


def get_config(arg: str = "") -> ConfigDict:
    """Returns the evaluation.

    Args:
        arg: one of `BENCHMARKS`, or "tiny".
    """
    c: Any = base.published(arg, BENCHMARKS, "clip_dense", "ViT-B-16")
    c.methods = tuple(f"clip_dense/{name}" for name in VARIANTS)
    return c

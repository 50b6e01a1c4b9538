"""CaR on its published benchmarks: `openseg evaluate --config car:voc21 --data-dir DIR`."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict
from openseg_jax.configs.eval import base

BENCHMARKS = (
    "voc21", "voc20", "coco_object", "pc60", "pc59", "ade150", "ade847", "pc459",
    "refcoco_val", "refcoco_testA", "refcoco_testB",
    "refcoco+_val", "refcoco+_testA", "refcoco+_testB", "refcocog_val", "refcocog_test",
)  # fmt: skip


def get_config(arg: str = "") -> ConfigDict:
    """Returns the evaluation; settings of the method itself are those of configs/car.py.

    Args:
        arg: one of `BENCHMARKS`, or "tiny".
    """
    c: Any = base.published(arg, BENCHMARKS, "car", "ViT-B-16")
    referring = arg.startswith("refcoco")
    if arg == "tiny":
        c.settings.car.refine = "none"
    elif not referring:
        c.settings.car.classifier = "ViT-L-14"
    return c

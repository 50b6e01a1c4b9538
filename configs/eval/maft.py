"""MAFT on its published benchmarks: `openseg evaluate --config maft:ade150 --data-dir DIR`.

`--model` names the folder that `openseg convert` made of the published weights.
"""

from __future__ import annotations

from ml_collections import ConfigDict
from openseg_jax.configs.eval import base

BENCHMARKS = ("ade150", "ade847", "pc59", "pc459", "voc20", "coco_stuff")


def get_config(arg: str = "") -> ConfigDict:
    """Returns the evaluation.

    Args:
        arg: one of `BENCHMARKS`, or "tiny".
    """
    return base.published(arg, BENCHMARKS, "maft", "maft")

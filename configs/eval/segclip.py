"""SegCLIP on its published benchmarks: `openseg evaluate --config segclip:voc21 --data-dir DIR`.

`--model` names the folder that `openseg convert` made of the published weights.
"""

from __future__ import annotations

from ml_collections import ConfigDict
from openseg_jax.configs.eval import base

BENCHMARKS = ("voc21", "pc60", "coco_object")


def get_config(arg: str = "") -> ConfigDict:
    """Returns the evaluation; settings of the method itself are those of configs/segclip.py.

    Args:
        arg: one of `BENCHMARKS`, or "tiny": scenes of the miniature world, for a small SegCLIP
            trained on it (`openseg train --config miniature_segclip`), named with --model.
    """
    return base.published(arg, BENCHMARKS, "segclip", "segclip")

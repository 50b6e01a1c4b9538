"""The miniature's CLIP: an hour on two CPU cores.

Run it with `openseg train --config configs/miniature_clip.py --workdir runs/miniature`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict
from openseg_jax.configs import base

from openseg_jax.models.variants import CLIPConfig, TextConfig, VisionConfig

# OpenAI's design at a fiftieth of the width: class token, ln_pre, QuickGELU. vocab_size 0 is the
# tokenizer's.
MODEL = CLIPConfig(
    name="miniature",
    embed_dim=128,
    vision=VisionConfig(64, 8, 128, 6, 4, 512, "quick_gelu"),
    text=TextConfig(24, 0, 128, 2, 4, 512, "quick_gelu"),
)


def get_config(arg: str = "") -> ConfigDict:
    """Returns the experiment; "tiny" takes two steps of a smaller model."""
    if arg not in ("", "tiny"):
        raise ValueError(f"arg: unknown name {arg!r}; known: tiny")
    c: Any = base.get_config()
    c.name = "miniature_clip"
    c.model = ConfigDict(MODEL.to_dict())
    c.steps = 3600
    c.batch_size = 128
    c.scan = False
    c.log_every = 25
    c.checkpoint_every = 250
    c.task.patch_mean_weight = 0.5
    c.input.shuffle = False
    c.optim.warmup = 150
    c.optim.weight_decay = (
        # gains, biases, tables and the temperature are not shrunk
        (r".*/(bias|scale)|.*embedding|logit_scale", 0.0),
        (r".*/kernel", 0.1),
    )
    if arg == "tiny":
        c.steps, c.batch_size = 2, 8
        c.log_every = c.checkpoint_every = 1
        c.optim.warmup = 1
        small = dataclasses.replace(
            MODEL,
            vision=VisionConfig(32, 8, 32, 1, 2, 64, "quick_gelu"),
            text=TextConfig(24, 0, 32, 1, 2, 64, "quick_gelu"),
            embed_dim=32,
        )
        c.model = ConfigDict(small.to_dict())
    return c

"""The miniature's CLIP becomes mask-aware: minutes on two CPU cores.

Run it with `openseg train --config configs/miniature_maft.py --workdir runs/miniature_maft`. Masks
of the seven unseen things are never shown; proposals are noisy (see miniature/noisy_proposals.py).
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict
from openseg_jax.configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the experiment; "tiny" takes two steps."""
    if arg not in ("", "tiny"):
        raise ValueError(f"arg: unknown name {arg!r}; known: tiny")
    c: Any = base.get_config()
    c.name = "miniature_maft"
    c.init = "miniature"
    c.steps = 250
    c.batch_size = 16
    c.scan = False
    c.checkpoint_every = 125
    c.task.name = "maft_stage2"
    c.task.trainable = (
        (r"visual/(blocks/(attn|ln_1|ln_2)|ln_post)/.*", True),
        (r".*", False),
    )
    c.task.maft.size = 96
    c.task.maft.temperature = 15.0  # the tiny tower is far less sure than a CLIP at 100
    c.task.maft.distillation = 1.0
    c.input.shuffle = False
    c.input.masks.crop = 96
    c.input.masks.stride = 1
    c.input.masks.segments = 8
    c.input.masks.proposals = "noisy"
    c.input.masks.count = 32
    c.optim.learning_rate = 1e-4
    c.optim.schedule = "poly"
    c.optim.warmup = 20
    c.optim.b2 = 0.999
    c.optim.weight_decay = ((r".*/ln_\w+/.*", 0.0), (r".*", 1e-4))
    if arg == "tiny":
        c.steps, c.batch_size = 2, 4
        c.log_every = c.checkpoint_every = 1
        c.task.maft.size = c.input.masks.crop = 64
        c.input.masks.count = 8
        c.optim.warmup = 1
    return c

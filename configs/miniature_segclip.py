"""SegCLIP in miniature: from the embedded CLIP, on captions alone.

Run it with `openseg train --config configs/miniature_segclip.py --workdir runs/miniature_segclip`.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict
from openseg_jax.configs import base
from openseg_jax.configs.miniature_clip import MODEL
from openseg_jax.configs.miniature_clip import get_config as miniature_clip


def get_config(arg: str = "") -> ConfigDict:
    """Returns the experiment; "tiny" takes two steps of a smaller model, from nothing."""
    if arg not in ("", "tiny"):
        raise ValueError(f"arg: unknown name {arg!r}; known: tiny")
    c: Any = base.get_config()
    c.name = "miniature_segclip"
    c.init = "miniature"
    c.model = ConfigDict(MODEL.to_dict())
    c.steps = 200
    c.batch_size = 64
    c.scan = False
    c.log_every = 20
    c.checkpoint_every = 100
    c.task.name = "segclip"
    c.task.trainable = (
        (r"text/.*embedding", False),
        (r"visual/(class|positional)_embedding", False),
        (r"visual/(conv1|ln_pre)/.*", False),
        (r".*", True),
    )
    # Late grouping, as published. Superpixels are made of the pictures at their own 64 pixels.
    c.task.segclip.update(
        first_blocks=5, centers=32, cross_layers=1, recon_blocks=1, start_pictures=256,
        decoder_width=64, decoder_depth=1, decoder_heads=2,
        superpixel_short_side=64, superpixel_scale=200.0, superpixel_sigma=0.6,
        superpixel_min_size=30,
    )  # fmt: skip
    c.input.shuffle = False
    c.optim.learning_rate = 3e-4
    c.optim.multiplier = (
        (r"visual/blocks/.*|text/.*|logit_scale", 1e-3),
        (r"visual/(blocks_after|ln_post|proj)(/.*)?", 0.01),
        (r"visual/group/(center_embedding|cross|cross_ln|key|key_ln|norm)(/.*)?", 0.01),
        (r".*", 1.0),
    )
    c.optim.schedule = "cosine_from_one"
    c.optim.warmup = 30
    c.optim.eps = 1e-6
    c.optim.weight_decay = ((r".*/bias", 0.0), (r".*", 0.05))
    if arg == "tiny":
        c.init = ""
        c.model = miniature_clip("tiny").model
        c.model.vision.depth = 2
        c.steps, c.batch_size, c.optim.warmup = 2, 4, 1
        c.log_every = c.checkpoint_every = 1
        c.task.segclip.update(
            first_blocks=1, centers=3, decoder_width=16,
            superpixel_short_side=32, superpixel_scale=32.0, superpixel_min_size=8,
        )  # fmt: skip
    return c

"""MAFT's proposal generator as published (FreeSeg): 60,000 steps of 16 pictures beside ViT-B/16.

Run it on COCO-Stuff with `openseg train --config configs/maft_stage1.py --workdir
runs/maft_stage1`. Published training starts the backbone from ImageNet, detectron2's
"DeepLab/R-103.pkl": --set task.maft.backbone=R-103.pkl. A folder that holds a generator is started
from by --set init=FOLDER. Zero-shot training hides the masks of unseen classes:
--set input.masks.split=coco_stuff_156_15. `maft_stage1:bf16` computes in bfloat16.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict
from openseg_jax.configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the experiment; "tiny" takes two steps of a small generator on the miniature."""
    if arg not in ("", "bf16", "tiny"):
        raise ValueError(f"arg: unknown name {arg!r}; known: bf16, tiny")
    c: Any = base.get_config()
    c.name = "maft_stage1"
    c.seed = 123
    c.init = "ViT-B-16"
    c.steps = 60_000
    # The published file says 2; the checkpoint that stage 2 started from was trained with 16.
    c.batch_size = 16
    c.dtype = "bfloat16" if arg == "bf16" else "float32"
    c.checkpoint_every = 5000
    c.task.name = "maft_stage1"
    c.task.trainable = ((r"generator/backbone/.*norm.*", False), (r".*", True))
    c.input.name = "folder"
    c.input.path = "data/coco/train2017"
    c.input.masks.labels = "data/coco/stuffthingmaps_detectron2/train2017"
    c.input.masks.classes = "coco_stuff171"
    c.input.workers = 8
    c.optim.learning_rate = 1.5e-4
    c.optim.schedule = "poly"
    c.optim.warmup = 0
    c.optim.b2 = 0.999
    c.optim.clip = 0.01
    c.optim.multiplier = ((r"generator/backbone/.*", 0.1), (r".*", 1.0))
    c.optim.weight_decay = (
        # norms, and the decoder's tables of queries and levels; the encoder's table is shrunk
        (r".*norm.*/(scale|bias)", 0.0),
        (r"generator/decoder/(query_feat|query_embed|level_embed)", 0.0),
        (r".*", 1.5e-4),
    )
    if arg == "tiny":
        c.init = "miniature"
        c.steps, c.batch_size = 2, 2
        c.log_every = c.checkpoint_every = 1
        c.task.maft.generator = "tiny"
        c.task.maft.temperature = 20.0
        c.input.name = "miniature"
        c.input.workers = 0
        c.input.masks.crop = 64
        c.input.masks.segments = 6
    return c

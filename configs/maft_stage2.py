"""MAFT's fine-tuning as published: CLIP becomes mask-aware in 1000 steps of 16 pictures.

Run it on COCO-Stuff, from weights that hold a CLIP and a proposal generator (`openseg convert`
reads FreeSeg's; or train it with maft_stage1):

    openseg train --config configs/maft_stage2.py --workdir runs/maft --set init=FOLDER

With a CLIP alone, take training-free proposals: --set init=ViT-B-16 --set
input.masks.proposals=regions. Zero-shot training hides the masks of unseen classes: --set
input.masks.split=coco_stuff_156_15. `maft_stage2:bf16` computes in bfloat16.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict
from openseg_jax.configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the experiment; "tiny" takes two steps on the miniature's own CLIP."""
    if arg not in ("", "bf16", "tiny"):
        raise ValueError(f"arg: unknown name {arg!r}; known: bf16, tiny")
    c: Any = base.get_config()
    c.name = "maft_stage2"
    c.seed = 123
    c.init = "runs/maft_stage1/model"
    c.steps = 1000
    c.batch_size = 16
    c.dtype = "bfloat16" if arg == "bf16" else "float32"
    c.task.name = "maft_stage2"
    c.task.trainable = (
        (r"visual/(blocks/(attn|ln_1|ln_2)|ln_post)/.*", True),
        (r".*", False),
    )
    c.input.name = "folder"
    c.input.path = "data/coco/train2017"
    c.input.masks.labels = "data/coco/stuffthingmaps_detectron2/train2017"
    c.input.masks.classes = "coco_stuff171"
    c.input.masks.proposals = "generator"
    c.input.workers = 8
    c.optim.learning_rate = 1e-5
    c.optim.schedule = "poly"
    c.optim.warmup = 0
    c.optim.b2 = 0.999
    c.optim.clip = 0.01
    c.optim.weight_decay = ((r".*/ln_\w+/.*", 0.0), (r".*", 1e-4))
    if arg == "tiny":
        c.init = "miniature"
        c.steps, c.batch_size = 2, 4
        c.log_every = c.checkpoint_every = 1
        c.scan = False
        c.input.name = "miniature"
        c.input.workers = 0
        c.input.masks.crop = 64
        c.input.masks.proposals = "noisy"
        c.input.masks.count = 8
        c.input.masks.segments = 6
        c.input.masks.stride = 1
    return c

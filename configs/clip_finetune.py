"""Fine-tuning of a CLIP on captioned pictures, with batches as large as in its own training.

Run it with `openseg train --config configs/clip_finetune.py --workdir runs/tuned`, on shards that
img2dataset made (or `--set input.name=folder --set input.path=photos`):

    clip_finetune          both towers of ViT-B/16, softmax loss
    clip_finetune:lit      the image tower is locked, the text tower follows it
    clip_finetune:siglip   SigLIP B/16 and its sigmoid loss
    clip_finetune:tiny     two steps on the miniature, seconds; also lit,tiny and siglip,tiny

A batch that does not fit is cut in parts with the same result (--set accumulate=8). To see what is
gained: --set evaluate.every=200 --set evaluate.path=FOLDER; to keep what the start knew beyond the
data tuned on: `openseg interpolate`, half and half (WiSE-FT).
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict
from openseg_jax.configs import base
from openseg_jax.configs.miniature_clip import get_config as miniature_clip

from openseg_jax.models.variants import variant

ARGS = ("lit", "siglip", "tiny")


def get_config(arg: str = "") -> ConfigDict:
    """Returns the experiment; arguments of the module's table, joined by commas."""
    args = [a for a in arg.split(",") if a]
    for name in args:
        if name not in ARGS:
            raise ValueError(f"arg: unknown name {name!r}; known: {', '.join(ARGS)}")
    c: Any = base.get_config()
    c.name = "clip_finetune"
    c.init = "ViT-B-16"
    c.model = ConfigDict(variant("ViT-B-16").to_dict())
    c.batch_size = 32_768  # CLIP's own (Radford et al. 2021, table 18)
    c.steps = 2000  # ours: 65 M pairs
    c.dtype = "bfloat16"
    c.remat = "full"
    c.checkpoint_every = 200
    c.input.name = "webdataset"
    c.input.path = "data/cc12m/{00000..01242}.tar"
    c.input.crop = (0.9, 1.0)  # open_clip's
    c.input.workers = 16
    c.input.threads = 4
    c.optim.learning_rate = 1e-4  # ours: a fifth of CLIP's own for B/16 at this batch
    c.optim.warmup = 200  # ours: a tenth, as CLIP's 2000 would be all
    c.optim.b2 = 0.98  # CLIP, of its vision transformers
    c.optim.eps = 1e-6  # CLIP, of its vision transformers
    c.optim.clip = 1.0  # WiSE-FT (Wortsman et al. 2022)
    c.optim.layer_decay = 0.75  # ours; with small rates and averages, as Dong et al. 2022 advise
    c.optim.weight_decay = (
        # CLIP: 0.2 on all that is neither gain nor bias; that tables are spared too is ours
        (r".*/(bias|scale)|.*embedding|logit_(scale|bias)|.*probe", 0.0),
        (r".*", 0.2),
    )
    c.average.decay = 0.998  # ours: over the last quarter of the steps
    if "lit" in args:
        # LiT (Zhai et al. 2022): a locked image tower; 16,384 pairs, a rate of 1e-3, decay 1e-4,
        # no averages. There the text tower starts from nothing, here from CLIP's: ours is a tenth.
        c.task.trainable = ((r"visual/.*", False), (r".*", True))
        c.batch_size = 16_384
        c.optim.layer_decay = 1.0
        c.optim.weight_decay = ((r".*/(bias|scale)|.*embedding|logit_scale", 0.0), (r".*", 1e-4))
        c.average.decay = 0.0
    if "siglip" in args:
        # SigLIP (Zhai et al. 2023): b2 = 0.95 for large batches; no decay of pretrained weights.
        c.init = "SigLIP-B-16"
        c.model = ConfigDict(variant("SigLIP-B-16").to_dict())
        c.task.loss = "sigmoid"
        c.optim.b2 = 0.95
        c.optim.weight_decay = ((r".*", 0.0),)
    if "tiny" in args:
        small = miniature_clip("tiny")
        c.init = "" if "siglip" in args else "miniature"
        c.model = ConfigDict(small.model)
        c.model.logit_bias = "siglip" in args
        c.steps, c.batch_size, c.accumulate, c.task.loss_block = 2, 8, 2, 4
        c.log_every = c.checkpoint_every = c.optim.warmup = 1
        c.dtype, c.remat = "float32", "none"
        c.input.name, c.input.path, c.input.workers = "miniature", "", 0
        c.input.shuffle = False
    return c

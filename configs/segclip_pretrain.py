"""SegCLIP as published: CLIP ViT-B/16 on CC3M and COCO's captions, 10 epochs of batch 768.

Run it with `openseg train --config configs/segclip_pretrain.py --workdir runs/segclip`, on shards
that img2dataset made (cc3m and mscoco, its own names), or with another input:

    --set input.name=tfds                               coco_captions, after `tfds build`
    --set input.name=folder --set input.path=photos     with photos/captions.tsv

The published training ran on 8 cards in float32 (TF32 products). `segclip_pretrain:bf16` computes
in bfloat16. It also let the attention of the group module mix the tokens of the images of one card
(--set task.segclip.cross_batch_kv=torch18 --set task.segclip.scramble_images=96) and took equal
captions for negatives of one another (--set task.segclip.equal_captions=False); both are off here.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict
from openseg_jax.configs import base

from openseg_jax.models.variants import CLIPConfig, TextConfig, VisionConfig, variant

PAIRS = 3_310_000  # of CC3M what is still online, and 414,113 of COCO


def get_config(arg: str = "") -> ConfigDict:
    """Returns the experiment; "bf16" computes in bfloat16, "tiny" takes two steps, from nothing."""
    if arg not in ("", "bf16", "tiny"):
        raise ValueError(f"arg: unknown name {arg!r}; known: bf16, tiny")
    c: Any = base.get_config()
    c.name = "segclip_pretrain"
    c.seed = 42
    c.init = "ViT-B-16"
    c.model = ConfigDict(variant("ViT-B-16").to_dict())
    c.batch_size = 768
    c.steps = 10 * PAIRS // c.batch_size
    c.dtype = "bfloat16" if arg == "bf16" else "float32"
    c.checkpoint_every = 1000
    c.task.name = "segclip"
    c.task.trainable = (
        (r"text/(token|positional)_embedding", False),
        (r"visual/(class|positional)_embedding", False),
        (r"visual/(conv1|ln_pre)/.*", False),
        (r".*", True),
    )
    c.input.name = "webdataset"
    c.input.path = "data/cc3m/{00000..00331}.tar::data/mscoco/{00000..00059}.tar"
    c.input.context = 32
    c.input.workers = 16
    c.input.threads = 4
    c.optim.learning_rate = 4e-3
    c.optim.multiplier = (
        # CLIP's own lower blocks and its text tower move a thousand times slower: 4e-6
        (r"visual/blocks/.*|text/.*|logit_scale", 1e-3),
        (r".*", 1.0),
    )
    c.optim.schedule = "cosine_from_one"
    c.optim.warmup = round(0.15 * c.steps)
    c.optim.b2 = 0.98
    c.optim.eps = 1e-6
    c.optim.clip = 1.0
    # Biases alone are spared: gains of LayerNorm, centres and the temperature decay, as published.
    c.optim.weight_decay = ((r".*/bias", 0.0), (r".*", 0.05))
    if arg == "tiny":
        c.init = ""
        c.steps, c.batch_size = 2, 4
        c.log_every = c.checkpoint_every = 1
        c.scan = False
        c.optim.warmup = 1
        c.model = ConfigDict(TINY.to_dict())
        c.input.name, c.input.path, c.input.workers = "miniature", "", 0
        c.input.shuffle, c.input.context = False, 0
        c.task.segclip.update(
            first_blocks=1, centers=3, cross_layers=1, recon_blocks=1,
            decoder_width=16, decoder_depth=1, decoder_heads=2,
            superpixel_short_side=32, superpixel_scale=32.0, superpixel_min_size=8,
        )  # fmt: skip
    return c


TINY = CLIPConfig(
    name="tiny",
    embed_dim=16,
    vision=VisionConfig(32, 8, 32, 2, 2, 64, "quick_gelu"),
    text=TextConfig(16, 0, 32, 1, 2, 64, "quick_gelu"),
)

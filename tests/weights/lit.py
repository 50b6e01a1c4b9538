"""Tiny LiTs: a class token, no LayerNorm before the first block, and a transformer or a BERT."""

from __future__ import annotations

import dataclasses

from openseg_jax.models.variants import TextConfig
from tests.weights.tiny import SIGLIP_MU

WORD_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "photo", "of", "zebra", "##s", "grass", "!")

# What LiT's files with big_vision's own text tower hold: softmax loss, no head on images.
LIT_MU = dataclasses.replace(
    SIGLIP_MU,
    name="mu-lit",
    vision=dataclasses.replace(SIGLIP_MU.vision, pool="class"),
    logit_bias=False,
)
LIT_HEAD_MU = dataclasses.replace(
    LIT_MU,
    embed_dim=16,
    vision=dataclasses.replace(LIT_MU.vision, proj=True, proj_bias=True),
)
# The published LiTs: flaxformer's BERT, heads of 64, 512 positions of which 16 are used.
LIT_BERT_MU = dataclasses.replace(
    LIT_MU,
    text=TextConfig(
        24, len(WORD_PIECES), 128, 2, 2, 96, "gelu_tanh", 1e-12,
        pool="first", causal=False, proj_bias=True, post_norm=True,
    ),
)  # fmt: skip

"""Tiny models for the tests of weights and texts."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from openseg_jax.models.clip import CLIP, init_params
from openseg_jax.models.variants import CLIPConfig, Preprocess, TextConfig, VisionConfig
from openseg_jax.text.tokenizer import HfTokenizer, word_tokenizer
from openseg_jax.types import Params
from openseg_jax.weights.tree import flatten, unflatten

WORDS = ("a", "photo", "of", "zebra", "grass", "lemon")
PROVENANCE = {"name": "mu", "source": "a test", "licence": "none", "saw": "nothing"}
PREPROCESS = Preprocess(32)

CLIP_MU = CLIPConfig(
    name="mu",
    embed_dim=16,
    vision=VisionConfig(32, 8, 32, 2, 2, 64, "quick_gelu"),
    text=TextConfig(16, len(WORDS) + 4, 24, 2, 2, 48, "quick_gelu"),
)
SIGLIP_MU = CLIPConfig(
    name="mu-siglip",
    embed_dim=32,
    vision=VisionConfig(
        32, 8, 32, 2, 2, 64, "gelu_tanh", 1e-6,
        pool="map", pre_norm=False, conv_bias=True, proj=False, pos_resample="zoom_linear",
    ),
    text=TextConfig(
        16, len(WORDS) + 4, 32, 2, 2, 48, "gelu_tanh", 1e-6,
        pool="last", causal=False, proj_bias=True,
    ),
    logit_bias=True,
)  # fmt: skip


def random_params(config: CLIPConfig, seed: int = 0) -> dict:
    """Draws every parameter at random, also those that start at 0 or 1, as numpy arrays."""
    spec = flatten(jax.eval_shape(lambda: init_params(CLIP(config), jax.random.key(0))))
    draw = np.random.default_rng(seed)

    def one(name: str, shape: tuple[int, ...]) -> np.ndarray:
        x = draw.normal(size=shape).astype(np.float32)
        if name.startswith("logit_scale"):
            return np.float32(2.5) + 0 * x
        if name.endswith("scale"):
            return 1 + x / 4
        return x * (max(shape[-2:-1] or (16,)) ** -0.5 if name.endswith("kernel") else 0.3)

    return unflatten({name: one(name, leaf.shape) for name, leaf in spec.items()})


def tokenizer(config: CLIPConfig = CLIP_MU) -> HfTokenizer:
    """Builds the word tokenizer of `CLIP_MU`."""
    return word_tokenizer(WORDS, config.text.context)


def same(a: Params, b: Params) -> bool:
    """Says whether two trees hold equal names and equal numbers."""
    a, b = flatten(a), flatten(b)
    return list(a) == list(b) and all(np.array_equal(a[k], b[k]) for k in a)


def with_act(config: CLIPConfig, act: str) -> CLIPConfig:
    """Replaces the activation of both towers."""
    return dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, act=act),
        text=dataclasses.replace(config.text, act=act),
    )

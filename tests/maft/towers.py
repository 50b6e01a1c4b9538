"""CLIP towers from the MAFT goldens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from openseg_jax.models.text import TextTransformer
from openseg_jax.models.variants import CLIPConfig, TextConfig, VisionConfig
from openseg_jax.models.vit import VisionTransformer
from openseg_jax.weights.openai import text_leaves, vision_leaves
from openseg_jax.weights.tree import convert, param_spec

# What the goldens' image pixels are scaled by: CLIP's own, on bytes.
MEAN = np.asarray([122.7709383, 116.7460125, 104.09373615], np.float32)
STD = np.asarray([68.5005327, 66.6321579, 70.3231630], np.float32)


def pixels(image: np.ndarray) -> np.ndarray:
    """Turns UInt8[B 3 H W] into normalised Float32[B H W 3]."""
    return (np.moveaxis(image, 1, -1).astype(np.float32) - MEAN) / STD


def _tower(state: Mapping[str, np.ndarray], config: CLIPConfig, tower: str) -> Any:
    leaves = [x for x in [*vision_leaves(), *text_leaves()] if x.target.startswith(tower)]
    spec = {k: v for k, v in param_spec(config).items() if k.startswith(tower)}
    params, _ = convert(state, leaves, spec, file="golden", allow=("logit_scale",))
    return params[tower]


def visual(state: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> tuple[Any, Any]:
    """Builds the image tower and its parameters from tensors named `visual.…`."""
    embed = sizes.get("embed", sizes.get("out_dim", 0))
    width = sizes["width"]
    vision = VisionConfig(
        sizes["pretrain_res"], sizes["patch"], width, sizes["layers"], sizes["heads"],
        4 * width, "quick_gelu",
    )  # fmt: skip
    config = CLIPConfig("golden", embed, vision, TextConfig(8, 8, 8, 1, 1, 8, "quick_gelu"))
    return VisionTransformer(vision, embed), _tower(state, config, "visual")


def text(state: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> tuple[Any, Any]:
    """Builds the text tower and its parameters."""
    width = sizes["width"]
    tower = TextConfig(
        sizes["context"], sizes["vocab"], width, sizes["layers"], sizes["heads"],
        4 * width, "quick_gelu",
    )  # fmt: skip
    vision = VisionConfig(8, 8, 8, 1, 1, 8, "quick_gelu")
    config = CLIPConfig("golden", sizes["embed_dim"], vision, tower)
    return TextTransformer(tower, sizes["embed_dim"]), _tower(state, config, "text")

"""OpenAI's CLIP state dict: names, architecture from shapes, and conversion both ways.

open_clip kept these names, so its plain CLIPs use the same table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from openseg_jax.errors import UserError, describe
from openseg_jax.models.variants import CLIPConfig, TextConfig, VisionConfig
from openseg_jax.types import Params
from openseg_jax.weights.report import Report
from openseg_jax.weights.tree import Leaf, convert, export, linear, norm, packed

# Integers that the TorchScript archive carries beside the weights, and open_clip's mask buffer.
ALLOW = ("input_resolution", "context_length", "vocab_size", r"(text\.)?attn_mask")


def block_leaves(target: str, source: str) -> list[Leaf]:
    """Names a stack of residual attention blocks; `source` ends in the block's number."""
    return [
        *norm(f"{target}/ln_1", f"{source}.ln_1"),
        *packed(
            f"{target}/attn",
            f"{source}.attn.in_proj_weight",
            f"{source}.attn.in_proj_bias",
            ("query", "key", "value"),
        ),
        *linear(f"{target}/attn/out", f"{source}.attn.out_proj"),
        *norm(f"{target}/ln_2", f"{source}.ln_2"),
        *linear(f"{target}/mlp/c_fc", f"{source}.mlp.c_fc"),
        *linear(f"{target}/mlp/c_proj", f"{source}.mlp.c_proj"),
    ]


def vision_leaves() -> list[Leaf]:
    """Names the image tower."""
    return [
        Leaf("visual/conv1/kernel", "visual.conv1.weight", "conv"),
        Leaf("visual/class_embedding", "visual.class_embedding"),
        Leaf("visual/positional_embedding", "visual.positional_embedding"),
        *norm("visual/ln_pre", "visual.ln_pre"),
        *block_leaves("visual/blocks", "visual.transformer.resblocks.{i}"),
        *norm("visual/ln_post", "visual.ln_post"),
        Leaf("visual/proj/kernel", "visual.proj"),
    ]


def text_leaves(prefix: str = "", *, proj_bias: bool = False) -> list[Leaf]:
    """Names the text tower; open_clip's custom towers put `prefix` "text." before."""
    # open_clip turns the projection into a Linear, which keeps (out, in), when it has a bias.
    proj = [Leaf("text/text_projection/kernel", f"{prefix}text_projection")]
    if proj_bias:
        proj = linear("text/text_projection", f"{prefix}text_projection")
    return [
        Leaf("text/token_embedding", f"{prefix}token_embedding.weight"),
        Leaf("text/positional_embedding", f"{prefix}positional_embedding"),
        *block_leaves("text/blocks", f"{prefix}transformer.resblocks.{{i}}"),
        *norm("text/ln_final", f"{prefix}ln_final"),
        *proj,
    ]


LEAVES = (*vision_leaves(), *text_leaves(), Leaf("logit_scale", "logit_scale"))


def _shape(state: Mapping[str, Any], key: str, rank: int, file: str) -> tuple[int, ...]:
    if key not in state:
        hint = "a ResNet CLIP; only ViTs are supported" if "visual.layer1.0.conv1.weight" in state \
            else "not a CLIP in OpenAI's naming"  # fmt: skip
        raise UserError(
            f"{file}: expected the key {key!r} of a CLIP ViT, found {len(state)} keys without it "
            f"(first: {', '.join(sorted(state)[:3]) or 'none'}); this is {hint}"
        )
    shape = tuple(state[key].shape)
    if len(shape) != rank:
        raise UserError(
            f"{file}: {key}: expected {rank} axes, found {describe(state[key])}; "
            "check that the file is an unmodified CLIP"
        )
    return shape


def _depth(state: Mapping[str, Any], prefix: str) -> int:
    numbers = {
        int(key[len(prefix) :].split(".")[0])
        for key in state
        if key.startswith(prefix) and key[len(prefix) :].split(".")[0].isdigit()
    }
    return max(numbers, default=-1) + 1


def config_from_state(
    state: Mapping[str, Any],
    *,
    name: str = "openai",
    act: str = "quick_gelu",
    vision_heads: int | None = None,
    text_heads: int | None = None,
    file: str = "state dict",
) -> CLIPConfig:
    """Reads the architecture off the shapes of an OpenAI state dict.

    Widths, depths, patch, image size, vocabulary and context are in the shapes. What is not: the
    activation (QuickGELU in all of OpenAI's weights) and the heads (width / 64 in all of them).

    Args:
        state: arrays by OpenAI's names; only shapes are looked at.
        name: for people.
        act: activation, see `models.variants.ACTIVATIONS`.
        vision_heads, text_heads: None for width / 64.
        file: the file's name, for messages.

    Raises:
        UserError: when a key that carries the architecture is missing or malformed.
    """

    def shape(key: str, rank: int) -> tuple[int, ...]:
        return _shape(state, key, rank, file)

    width, _, patch, _ = shape("visual.conv1.weight", 4)
    grid = round((shape("visual.positional_embedding", 2)[0] - 1) ** 0.5)
    text_width = shape("ln_final.weight", 1)[0]
    block = "transformer.resblocks."
    return CLIPConfig(
        name=name,
        embed_dim=shape("visual.proj", 2)[1],
        vision=VisionConfig(
            image_size=grid * patch,
            patch_size=patch,
            width=width,
            depth=_depth(state, f"visual.{block}"),
            heads=vision_heads or max(width // 64, 1),
            mlp_width=shape(f"visual.{block}0.mlp.c_fc.weight", 2)[0],
            act=act,
        ),
        text=TextConfig(
            context=shape("positional_embedding", 2)[0],
            vocab_size=shape("token_embedding.weight", 2)[0],
            width=text_width,
            depth=_depth(state, block),
            heads=text_heads or max(text_width // 64, 1),
            mlp_width=shape(f"{block}0.mlp.c_fc.weight", 2)[0],
            act=act,
        ),
    )


def from_state_dict(
    state: Mapping[str, Any],
    *,
    name: str = "openai",
    act: str = "quick_gelu",
    vision_heads: int | None = None,
    text_heads: int | None = None,
    file: str = "state dict",
) -> tuple[CLIPConfig, dict[str, Any], Report]:
    """Converts an OpenAI state dict. Arguments as in `config_from_state`.

    Returns:
        The configuration, nested float32 numpy parameters, and the report.

    Raises:
        UserError: for missing, unexpected or wrongly shaped keys.
    """
    config = config_from_state(
        state, name=name, act=act, vision_heads=vision_heads, text_heads=text_heads, file=file
    )
    params, report = convert(state, LEAVES, config, file=file, allow=ALLOW)
    return config, params, report


def to_state_dict(params: Params, dtype: Any = None) -> Iterator[tuple[str, np.ndarray]]:
    """Yields OpenAI's names and arrays, e.g. for `dict(to_state_dict(params))`."""
    return export(params, LEAVES, dtype)

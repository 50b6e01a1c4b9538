"""Names of the proposal generator in detectron2-style checkpoints (MAFT, FreeSeg)."""

from __future__ import annotations

from openseg_jax.models.mask_decoder import MaskDecoderConfig
from openseg_jax.models.pixel_decoder import PixelDecoderConfig
from openseg_jax.models.resnet import ResNetConfig
from openseg_jax.weights.tree import Leaf, linear, norm, packed

FROZEN = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def conv_norm(target: str, conv: str, group_norm: str, *, bias: bool) -> list[Leaf]:
    """Names a convolution and its group normalisation."""
    rows = [Leaf(f"{target}/conv/kernel", f"{conv}.weight", "conv")]
    if bias:
        rows.append(Leaf(f"{target}/conv/bias", f"{conv}.bias"))
    return rows + norm(f"{target}/norm", group_norm)


def pixel_decoder_leaves(
    config: PixelDecoderConfig, source: str = "sem_seg_head.pixel_decoder.", target: str = ""
) -> list[Leaf]:
    """Names the pixel decoder.

    Args:
        config: its sizes.
        source: what their names begin with.
        target: what ours begin with.
    """
    rows = [Leaf(f"{target}level_embed", f"{source}transformer.level_embed")]
    for i in range(config.levels):
        there = f"{source}input_proj.{i}"
        rows += conv_norm(f"{target}input_proj_{i}", f"{there}.0", f"{there}.1", bias=True)
    for i in range(config.layers):
        here, there = f"{target}layers_{i}", f"{source}transformer.encoder.layers.{i}"
        for name in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
            rows += linear(f"{here}/self_attn/{name}", f"{there}.self_attn.{name}")
        rows += linear(f"{here}/linear1", f"{there}.linear1")
        rows += linear(f"{here}/linear2", f"{there}.linear2")
        rows += norm(f"{here}/norm1", f"{there}.norm1")
        rows += norm(f"{here}/norm2", f"{there}.norm2")
    for name in ("adapter_1", "layer_1"):
        there = f"{source}{name}"
        rows += conv_norm(f"{target}{name}", there, f"{there}.norm", bias=False)
    return rows + [
        Leaf(f"{target}mask_features/kernel", f"{source}mask_features.weight", "conv"),
        Leaf(f"{target}mask_features/bias", f"{source}mask_features.bias"),
    ]


def interaction_leaves(source: str = "sem_seg_head.interaction.", target: str = "") -> list[Leaf]:
    """Names the text interaction. Arguments as in `pixel_decoder_leaves`."""
    rows = [Leaf(f"{target}gamma", f"{source}gamma")]
    for name in ("layer_norm_q_1", "layer_norm_k_1"):
        rows += norm(f"{target}{name}", f"{source}{name}")
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        rows += linear(f"{target}{name}", f"{source}attn.{name}")
    return rows


def mask_decoder_leaves(
    config: MaskDecoderConfig,
    source: str = "sem_seg_head.predictor.",
    target: str = "",
    query: str = "query_feat",
) -> list[Leaf]:
    """Names the masked-attention decoder.

    Args:
        config: its sizes.
        source, target: as in `pixel_decoder_leaves`.
        query: their name of the query features; older checkpoints say "static_query".
    """
    rows = [
        Leaf(f"{target}query_feat", f"{source}{query}.weight"),
        Leaf(f"{target}query_embed", f"{source}query_embed.weight"),
        Leaf(f"{target}level_embed", f"{source}level_embed.weight"),
        *norm(f"{target}decoder_norm", f"{source}decoder_norm"),
    ]
    for i in range(config.layers):
        here = f"{target}layers_{i}"
        for ours, theirs, inner in (
            ("cross", "transformer_cross_attention_layers", "multihead_attn"),
            ("self", "transformer_self_attention_layers", "self_attn"),
        ):
            there = f"{source}{theirs}.{i}"
            weight, bias = f"{there}.{inner}.in_proj_weight", f"{there}.{inner}.in_proj_bias"
            rows += packed(f"{here}/{ours}_attn", weight, bias, ("query", "key", "value"))
            rows += linear(f"{here}/{ours}_attn/out", f"{there}.{inner}.out_proj")
            rows += norm(f"{here}/{ours}_norm", f"{there}.norm")
        there = f"{source}transformer_ffn_layers.{i}"
        rows += linear(f"{here}/ffn/layers_0", f"{there}.linear1")
        rows += linear(f"{here}/ffn/layers_1", f"{there}.linear2")
        rows += norm(f"{here}/ffn_norm", f"{there}.norm")
    for name, depth in (("mask_embed", 3), ("class_embed", 2)):
        for i in range(depth):
            rows += linear(f"{target}{name}/layers_{i}", f"{source}{name}.layers.{i}")
    return rows


def resnet_leaves(config: ResNetConfig, source: str = "backbone.", target: str = "") -> list[Leaf]:
    """Names a ResNet as detectron2 does. Arguments as in `pixel_decoder_leaves`."""
    stems = 3 if config.stem == "deeplab" else 1
    found = [(f"stem_conv{i}", f"stem.conv{i}") for i in range(1, stems + 1)]
    for stage, depth in enumerate(config.depths, start=2):
        for i in range(depth):
            found += [
                (f"res{stage}_{i}/{name}", f"res{stage}.{i}.{name}")
                for name in ("shortcut", "conv1", "conv2", "conv3")
                if name != "shortcut" or i == 0
            ]
    rows = []
    for ours, theirs in found:
        rows.append(Leaf(f"{target}{ours}/conv/kernel", f"{source}{theirs}.weight", "conv"))
        for leaf, name in FROZEN.items():
            rows.append(Leaf(f"{target}{ours}/norm/{leaf}", f"{source}{theirs}.norm.{name}"))
    return rows

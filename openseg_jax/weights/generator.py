"""Names of the proposal generator in detectron2-style checkpoints (MAFT, FreeSeg)."""

from __future__ import annotations

from openseg_jax.models.pixel_decoder import PixelDecoderConfig
from openseg_jax.weights.tree import Leaf, linear, norm


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

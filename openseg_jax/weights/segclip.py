"""SegCLIP's published state dict (`segclip.bin`), and the start of its training from a CLIP.

The file keeps the blocks before and after the grouping under names of their own, so a plain CLIP
fits in by cutting its tower in two.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from openseg_jax.errors import UserError, describe
from openseg_jax.models.segclip import SegCLIP, SegCLIPConfig, init_params
from openseg_jax.models.variants import CLIPConfig, TextConfig, VisionConfig
from openseg_jax.ops.masked_patches import sincos_positions
from openseg_jax.types import Key, Params
from openseg_jax.weights.openai import block_leaves, text_leaves
from openseg_jax.weights.report import Report
from openseg_jax.weights.tree import Leaf, convert, export, flatten, linear, norm, packed, unflatten

_VISUAL, _TOWER = "clip.visual", "clip.visual.transformer"
_GROUP = f"{_TOWER}.semantic_layer2"
_QKV = ("query", "key", "value")
# A table of sines that the file carries; ours is computed.
POSITIONS = "vis_mae_decoder.decoder_pos_embed"
MARK = f"{_GROUP}.semantic_center"
"""A key that tells SegCLIP's state dicts from all others."""


def _decoder_leaves(width: int) -> list[Leaf]:
    block, theirs = "decoder/blocks", "vis_mae_decoder.decoder_blocks.{i}"
    return [
        Leaf("decoder/mask_token", "vis_mae_decoder.mask_token", shape=(1, 1, width)),
        *linear("decoder/embed", "vis_mae_decoder.decoder_embed"),
        *norm("decoder/norm", "vis_mae_decoder.decoder_norm"),
        *linear("decoder/pred", "vis_mae_decoder.decoder_pred"),
        *norm(f"{block}/ln_1", f"{theirs}.norm1"),
        *packed(f"{block}/attn", f"{theirs}.attn.qkv.weight", f"{theirs}.attn.qkv.bias", _QKV),
        *linear(f"{block}/attn/out", f"{theirs}.attn.proj"),
        *norm(f"{block}/ln_2", f"{theirs}.norm2"),
        *linear(f"{block}/mlp/c_fc", f"{theirs}.mlp.fc1"),
        *linear(f"{block}/mlp/c_proj", f"{theirs}.mlp.fc2"),
    ]


def group_leaves(target: str = "visual/group", source: str = _GROUP) -> list[Leaf]:
    """Names the semantic group module."""
    cross, theirs = f"{target}/cross", f"{source}.cross_att.{{i}}"
    return [
        Leaf(f"{target}/center_embedding", f"{source}.semantic_center"),
        *norm(f"{target}/norm", f"{source}.norm"),
        *norm(f"{target}/cross_ln", f"{source}.cross_ln"),
        *norm(f"{target}/key_ln", f"{source}.k_ln"),
        Leaf(f"{target}/key/kernel", f"{source}.k_conv.weight", "grouped"),
        Leaf(f"{target}/value/kernel", f"{source}.v_conv.weight", "grouped"),
        *norm(f"{target}/proj/ln", f"{source}.proj_o.ln"),
        *linear(f"{target}/proj/mlp/c_fc", f"{source}.proj_o.mlp.fc1"),
        *linear(f"{target}/proj/mlp/c_proj", f"{source}.proj_o.mlp.fc2"),
        *norm(f"{cross}/ln_x", f"{theirs}.ln_x"),
        *norm(f"{cross}/ln_k", f"{theirs}.ln_k"),
        *packed(
            f"{cross}/attn", f"{theirs}.attn.in_proj_weight", f"{theirs}.attn.in_proj_bias", _QKV
        ),
        *linear(f"{cross}/attn/out", f"{theirs}.attn.out_proj"),
        *norm(f"{cross}/ln_2", f"{theirs}.ln_2"),
        *linear(f"{cross}/mlp/c_fc", f"{theirs}.mlp.c_fc"),
        *linear(f"{cross}/mlp/c_proj", f"{theirs}.mlp.c_proj"),
    ]


def leaves(config: SegCLIPConfig) -> list[Leaf]:
    """Names every parameter of ours in the published state dict."""
    return [
        Leaf("logit_scale", "clip.logit_scale"),
        *text_leaves("clip."),
        Leaf("visual/conv1/kernel", f"{_VISUAL}.conv1.weight", "conv"),
        Leaf("visual/class_embedding", f"{_VISUAL}.class_embedding"),
        Leaf("visual/positional_embedding", f"{_VISUAL}.positional_embedding"),
        *norm("visual/ln_pre", f"{_VISUAL}.ln_pre"),
        *block_leaves("visual/blocks", f"{_TOWER}.layers0.{{i}}"),
        *group_leaves(),
        *block_leaves("visual/blocks_after", f"{_TOWER}.layers2.{{i}}"),
        *block_leaves("visual/blocks_recon", f"{_TOWER}.layers_mae2.{{i}}"),
        *linear("visual/reconstruct/mix", f"{_TOWER}.reconstruct_layer2.rec_proj_a.a_fc"),
        *norm("visual/ln_post", f"{_VISUAL}.ln_post"),
        Leaf("visual/proj/kernel", f"{_VISUAL}.proj"),
        *_decoder_leaves(config.decoder_width),
    ]


def segclip_spec(config: SegCLIPConfig) -> dict[str, Any]:
    """Lists every parameter of a SegCLIP with its shape; nothing is allocated."""
    return dict(_spec(config))


@functools.lru_cache(maxsize=8)
def _spec(config: SegCLIPConfig) -> dict[str, Any]:
    return flatten(jax.eval_shape(lambda: init_params(SegCLIP(config), jax.random.key(0))))


def _shape(state: Mapping[str, Any], key: str, rank: int, file: str) -> tuple[int, ...]:
    if key not in state:
        raise UserError(
            f"{file}: expected the key {key!r} of a SegCLIP, found {len(state)} keys without it "
            f"(first: {', '.join(sorted(state)[:3]) or 'none'}); give the published segclip.bin or "
            "a state dict of its training, with the decoder"
        )
    shape = tuple(state[key].shape)
    if len(shape) != rank:
        raise UserError(
            f"{file}: {key}: expected {rank} axes, found {describe(state[key])}; "
            "check that the file is an unmodified SegCLIP"
        )
    return shape


def _count(state: Mapping[str, Any], prefix: str, file: str) -> int:
    found = (re.match(rf"{re.escape(prefix)}\.(\d+)\.", key) for key in state)
    numbers = {int(match.group(1)) for match in found if match}
    if not numbers:
        raise UserError(
            f"{file}: expected keys {prefix}.0.*, found none; check that the file is complete"
        )
    return max(numbers) + 1


def config_from_state(
    state: Mapping[str, Any], *, name: str = "segclip", file: str = "state dict"
) -> SegCLIPConfig:
    """Reads the architecture off the shapes of a SegCLIP state dict.

    Not in the shapes are the heads of the text tower (width / 64) and the decoder (8), the
    activation (QuickGELU), the temperature and the share of hidden tokens: the published ones are
    taken.

    Raises:
        UserError: when a key that carries the architecture is missing or malformed.
    """

    def shape(key: str, rank: int) -> tuple[int, ...]:
        return _shape(state, key, rank, file)

    width, _, patch, _ = shape(f"{_VISUAL}.conv1.weight", 4)
    grid = round((shape(f"{_VISUAL}.positional_embedding", 2)[0] - 1) ** 0.5)
    text_width = shape("clip.ln_final.weight", 1)[0]
    first = _count(state, f"{_TOWER}.layers0", file)
    text = "clip.transformer.resblocks"
    clip = CLIPConfig(
        name=name,
        embed_dim=shape(f"{_VISUAL}.proj", 2)[1],
        vision=VisionConfig(
            image_size=grid * patch,
            patch_size=patch,
            width=width,
            depth=first + _count(state, f"{_TOWER}.layers2", file),
            # The grouped convolutions keep one group a head.
            heads=width // shape(f"{_GROUP}.k_conv.weight", 3)[1],
            mlp_width=shape(f"{_TOWER}.layers0.0.mlp.c_fc.weight", 2)[0],
            act="quick_gelu",
            pos_resample="bicubic",
        ),
        text=TextConfig(
            context=shape("clip.positional_embedding", 2)[0],
            vocab_size=shape("clip.token_embedding.weight", 2)[0],
            width=text_width,
            depth=_count(state, text, file),
            heads=max(text_width // 64, 1),
            mlp_width=shape(f"{text}.0.mlp.c_fc.weight", 2)[0],
            act="quick_gelu",
        ),
    )
    return SegCLIPConfig(
        clip,
        first_blocks=first,
        centers=shape(MARK, 2)[0],
        cross_layers=_count(state, f"{_GROUP}.cross_att", file),
        recon_blocks=_count(state, f"{_TOWER}.layers_mae2", file),
        decoder_width=shape("vis_mae_decoder.decoder_embed.weight", 2)[0],
        decoder_depth=_count(state, "vis_mae_decoder.decoder_blocks", file),
    )


def from_state_dict(
    state: Mapping[str, Any], *, name: str = "segclip", file: str = "state dict"
) -> tuple[SegCLIPConfig, dict[str, Any], Report]:
    """Converts a SegCLIP state dict.

    Args:
        state: arrays by their names.
        name: for people.
        file: the file's name, for messages.

    Returns:
        The configuration, nested float32 numpy parameters, and the report.

    Raises:
        UserError: for missing, unexpected or wrongly shaped keys.
    """
    config = config_from_state(state, name=name, file=file)
    params, report = convert(
        state, leaves(config), segclip_spec(config), file=file, allow=[re.escape(POSITIONS)]
    )
    return config, params, report


def to_state_dict(
    config: SegCLIPConfig, params: Params, dtype: Any = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the published names and arrays, with the decoder's table of positions."""
    yield from export(params, leaves(config), dtype)
    grid = config.clip.vision.grid
    table = sincos_positions(config.decoder_width, (grid, grid))
    yield POSITIONS, np.concatenate([np.zeros_like(table[:1]), table])[None]


@dataclasses.dataclass(frozen=True)
class Start:
    """Parameters to start training from.

    Attributes:
        params: nested float32 arrays.
        taken: names that came from the CLIP, whole.
        new: names that were drawn.
    """

    params: Params
    taken: tuple[str, ...]
    new: tuple[str, ...]

    def text(self) -> str:
        """Returns the report for people."""
        flat = flatten(self.params)
        lines = []
        for what, names in (("from CLIP", self.taken), ("new", self.new)):
            size = sum(np.size(flat[name]) for name in names)
            lines.append(f"{what:<10} {len(names):>4} parameters, {size / 1e6:.2f} M numbers")
        return "\n".join([*lines, *(f"  new: {name}" for name in self.new)])


def clip_part(config: SegCLIPConfig, clip: Params) -> dict[str, Any]:
    """Cuts a CLIP's parameters to the names that a SegCLIP has for them, flat.

    The tower's blocks become `visual/blocks` and `visual/blocks_after`.
    """
    part: dict[str, Any] = {}
    at = config.first_blocks
    for name, leaf in flatten(clip).items():
        if name.startswith("visual/blocks/"):
            part[name] = leaf[:at]
            part[name.replace("visual/blocks/", "visual/blocks_after/", 1)] = leaf[at:]
        else:
            part[name] = leaf
    return part


def start_from_clip(config: SegCLIPConfig, clip: Params, key: Key) -> Start:
    """Begins a SegCLIP with a CLIP's weights and draws what CLIP does not have.

    Args:
        config: what to build; `config.clip` describes `clip`.
        clip: nested parameters of that CLIP.
        key: for the new parameters.

    Raises:
        UserError: when the CLIP's parameters do not fit.
    """
    # Runs once: what it costs is its compilation.
    draw = jax.jit(
        lambda key: init_params(SegCLIP(config), key),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    fresh = flatten(draw(key))
    given = clip_part(config, clip)
    for name, leaf in given.items():
        want = tuple(fresh[name].shape) if name in fresh else None
        if tuple(leaf.shape) != want:
            raise UserError(
                f"clip: {name}: expected shape {want}, got {tuple(leaf.shape)}; "
                "give the CLIP that the configuration describes"
            )
    merged = {name: given.get(name, leaf) for name, leaf in fresh.items()}
    new = tuple(name for name in sorted(fresh) if name not in given)
    return Start(unflatten(merged), tuple(sorted(given)), new)

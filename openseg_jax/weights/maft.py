"""MAFT's and FreeSeg's published checkpoints: detectron2 files with a CLIP and a generator inside.

What they become in a folder of ours, beside the frozen CLIP, as `extras["maft"]`:

| tree | what it is | in the file |
|---|---|---|
| `visual/…` | the image tower tuned to masks; FreeSeg has none | `IPCLIP.*` |
| `non_object` | Float32[1 E], the learnt row that competes with the classes | `clip_adapter` |
| `generator/…` | the proposal generator | `backbone.*`, `sem_seg_head.*` |

`extras_config["maft"]` holds `start` (the first masked block), `temperature`, `size` (of the
encoder's input) and `generator`, a `GeneratorConfig`. Trained folders have the same parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from openseg_jax.errors import UserError, describe
from openseg_jax.models.generator import GeneratorConfig, generator_spec
from openseg_jax.models.mask_decoder import MaskDecoderConfig
from openseg_jax.models.pixel_decoder import PixelDecoderConfig
from openseg_jax.models.resnet import ResNetConfig
from openseg_jax.models.text_interaction import InteractionConfig
from openseg_jax.models.variants import Preprocess
from openseg_jax.text.tokenizer import openai_tokenizer
from openseg_jax.weights import openai
from openseg_jax.weights.generator import (
    interaction_leaves,
    mask_decoder_leaves,
    pixel_decoder_leaves,
    resnet_leaves,
)
from openseg_jax.weights.loaded import LoadedClip
from openseg_jax.weights.tree import Leaf, convert, flatten, param_spec

NAME = "maft"
CLIP, TUNED = "clip_adapter.clip_model.", "IPCLIP."
_HEAD = "sem_seg_head."
# `T` is a second copy of the teacher that the published code never runs; the class weights of the
# criterion, the pixel statistics and counters belong to training or are settings of ours.
ALLOW = (
    r"T\..*", r"criterion\..*", r"(clip_adapter\.)?pixel_(mean|std)",
    r".*\.num_batches_tracked",
    *(re.escape(CLIP) + name for name in openai.ALLOW),
)  # fmt: skip
# Not in the shapes: heads, and the settings that the yaml names but the code does not read.
SETTINGS = {"start": 8, "temperature": 100.0, "size": 480}
HEADS, GROUPS, LEVELS = 8, 32, 3


def is_maft(state: Mapping[str, Any]) -> bool:
    """Says whether a state dict is one of MAFT's or FreeSeg's."""
    return f"{CLIP}visual.proj" in state and any(name.startswith(_HEAD) for name in state)


def _count(state: Mapping[str, Any], prefix: str) -> int:
    """Returns how many numbers follow `prefix`, which ends before the number."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return len({found[1] for found in map(pattern.match, state) if found})


def generator_config(state: Mapping[str, Any], file: str = "state dict") -> GeneratorConfig:
    """Reads the generator's sizes off the shapes of a state dict.

    Heads (8 everywhere) and normalisation groups (32) are not in the shapes; they are the
    published ones.

    Raises:
        UserError: for a key without which sizes cannot be told.
    """

    def shape(key: str, rank: int) -> tuple[int, ...]:
        found = state.get(key)
        if found is None or len(found.shape) != rank:
            raise UserError(
                f"{file}: {key}: expected {rank} axes, found "
                f"{'nothing' if found is None else describe(found)}; check that the file is a "
                "complete MAFT or FreeSeg checkpoint"
            )
        return tuple(found.shape)

    pixel, query, look = f"{_HEAD}pixel_decoder.", f"{_HEAD}predictor.", f"{_HEAD}interaction."
    encoder, stages = f"{pixel}transformer.encoder.layers.", range(2, 6)
    width = shape(f"{pixel}adapter_1.weight", 4)[0]
    mask_width = shape(f"{pixel}mask_features.weight", 4)[0]
    depths = tuple(_count(state, f"backbone.res{stage}.") for stage in stages)
    deeplab = "backbone.stem.conv3.weight" in state
    stem = shape(f"backbone.stem.conv{3 if deeplab else 1}.weight", 4)[0]
    weights = shape(f"{encoder}0.self_attn.attention_weights.bias", 1)[0]
    return GeneratorConfig(
        backbone=ResNetConfig(
            depths=depths,
            widths=tuple(shape(f"backbone.res{s}.0.conv3.weight", 4)[0] for s in stages),
            stem="deeplab" if deeplab else "basic",
            stem_width=stem,
            # The published multi-grid; it repeats for a deeper res5.
            dilations=tuple(2 ** (i % 3) for i in range(depths[-1])),
        ),
        pixel_decoder=PixelDecoderConfig(
            width=width,
            mask_width=mask_width,
            layers=_count(state, encoder),
            heads=HEADS,
            points=weights // (HEADS * LEVELS),
            ffn=shape(f"{encoder}0.linear1.bias", 1)[0],
            levels=LEVELS,
            groups=GROUPS,
        ),
        interaction=InteractionConfig(
            text_dim=shape(f"{look}attn.k_proj.weight", 2)[1],
            inner=shape(f"{look}attn.q_proj.weight", 2)[0],
            heads=HEADS,
        ),
        decoder=MaskDecoderConfig(
            width=width,
            mask_width=mask_width,
            queries=shape(f"{query}query_embed.weight", 2)[0],
            layers=_count(state, f"{query}transformer_ffn_layers."),
            heads=HEADS,
            ffn=shape(f"{query}transformer_ffn_layers.0.linear1.bias", 1)[0],
            levels=LEVELS,
            class_dim=shape(f"{query}class_embed.layers.1.bias", 1)[0],
            class_hidden=shape(f"{query}class_embed.layers.0.bias", 1)[0],
        ),
    )


def generator_leaves(config: GeneratorConfig, query: str = "query_feat") -> list[Leaf]:
    """Names the whole generator. `query` as in `weights.generator.mask_decoder_leaves`."""
    return [
        *resnet_leaves(config.backbone, target="generator/backbone/"),
        *pixel_decoder_leaves(config.pixel_decoder, target="generator/pixel_decoder/"),
        *interaction_leaves(target="generator/interaction/"),
        *mask_decoder_leaves(config.decoder, target="generator/decoder/", query=query),
    ]


def _renamed(leaf: Leaf, target: str, source: str) -> Leaf:
    return Leaf(target, source, leaf.layout, leaf.part, leaf.shape)


def from_state_dict(state: Mapping[str, Any], *, file: str = "state dict", name: str = NAME) -> Any:
    """Converts a checkpoint of MAFT (stage 2) or FreeSeg (stage 1).

    Args:
        state: arrays by name.
        file: for messages.
        name: of the CLIP inside.

    Returns:
        The CLIP's configuration, its parameters, `extras["maft"]`, `extras_config["maft"]`,
        and the report over all of them.

    Raises:
        UserError: for missing, unexpected or wrongly shaped keys; it names file, key, what was
            expected and what was found.
    """
    inside = {k.removeprefix(CLIP): x for k, x in state.items() if k.startswith(CLIP)}
    clip = openai.config_from_state(inside, name=name, file=file)
    config = generator_config(state, file)
    spec: dict[str, Any] = {f"clip/{k}": leaf for k, leaf in param_spec(clip).items()}
    rows = [_renamed(leaf, f"clip/{leaf.target}", CLIP + leaf.source) for leaf in openai.LEAVES]
    if any(k.startswith(TUNED) for k in state):
        spec |= {k.removeprefix("clip/"): x for k, x in spec.items() if k[:12] == "clip/visual/"}
        rows += [
            _renamed(leaf, leaf.target, TUNED + leaf.source.removeprefix("visual."))
            for leaf in openai.vision_leaves()
        ]
    spec |= flatten({"generator": generator_spec(config)})
    query = "query_feat"
    if f"{_HEAD}predictor.{query}.weight" not in state:
        # The name of checkpoints from before Mask2Former was released.
        query = "static_query" if f"{_HEAD}predictor.static_query.weight" in state else query
    rows += generator_leaves(config, query)
    row = "clip_adapter.non_object_embedding"
    spec["non_object"] = jax.ShapeDtypeStruct((1, clip.embed_dim), "float32")
    rows.append(Leaf("non_object", row))
    tree, report = convert(state, rows, spec, file=file, allow=ALLOW)
    return clip, tree.pop("clip"), tree, {**SETTINGS, "generator": config.to_dict()}, report


def load_maft(path: Path, state: Mapping[str, Any]) -> LoadedClip:
    """Loads a checkpoint that `is_maft` accepts; the CLIP with its extras."""
    clip, params, extra, settings, report = from_state_dict(
        state, file=str(path), name=f"{path.stem}-clip"
    )
    tuned = "visual" in extra
    return LoadedClip(
        config=clip,
        params=params,
        preprocess=Preprocess(clip.vision.image_size),
        tokenizer=openai_tokenizer(clip.text.context),
        provenance={
            "name": path.stem,
            "source": str(path),
            "licence": "unknown; see where the file came from (CLIP inside: MIT)",
            "saw": "CLIP's 400 M image-text pairs, then "
            + ("COCO-Stuff masks (FreeSeg, then MAFT)" if tuned else "COCO-Stuff masks (FreeSeg)"),
        },
        defaults={},
        report=report,
        extras={NAME: extra},
        extras_config={NAME: settings},
    )

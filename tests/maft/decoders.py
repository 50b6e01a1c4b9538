"""Builds the generator's parts from a golden file: parameters by the converter's own tables."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from openseg_jax.models.mask_decoder import MaskDecoder, MaskDecoderConfig
from openseg_jax.models.pixel_decoder import PixelDecoder, PixelDecoderConfig
from openseg_jax.models.text_interaction import InteractionConfig, TextInteraction
from openseg_jax.types import Params
from openseg_jax.weights.generator import (
    interaction_leaves,
    mask_decoder_leaves,
    pixel_decoder_leaves,
)
from openseg_jax.weights.tree import convert, flatten
from tests import golden


def inputs(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Returns an input as float32, channels last; halves are exact."""
    found = arrays.get(f"in/{name}_f16", arrays.get(f"in/{name}"))
    assert found is not None, name
    return found.astype(np.float32).transpose(0, 2, 3, 1)


def channels_first(x: Any) -> np.ndarray:
    """Turns maps into the layout of the goldens."""
    return np.asarray(x).transpose(0, 3, 1, 2)


def params_of(module: Any, arrays: dict[str, np.ndarray], leaves: Any, *args: Any) -> Params:
    """Reads the file's weights into `module`; every name and shape must fit."""
    spec = jax.eval_shape(lambda: module.init(jax.random.key(0), *args)["params"])
    wanted = {leaf.source.split(".")[1] for leaf in leaves}
    source = {
        name: x
        for name, x in ((k.removeprefix("w/"), v) for k, v in arrays.items() if k[:2] == "w/")
        if name.split(".")[1] in wanted
    }
    return convert(source, leaves, flatten(spec), file="golden")[0]


@functools.cache
def pixel_case(path: Path) -> tuple[PixelDecoderConfig, list[np.ndarray], Params]:
    """Loads a pixel decoder: configuration, features from fine to coarse, parameters."""
    arrays, about = golden.load(path)
    c = about["config"]
    config = PixelDecoderConfig(
        width=c["conv_dim"], mask_width=c["mask_dim"], layers=c["enc_layers"], heads=c["heads"],
        points=c["points"], ffn=c["ffn"], levels=c["levels"], groups=c["gn_groups"],
    )  # fmt: skip
    features = [inputs(arrays, f"res{i + 2}") for i in range(len(c["in_channels"]))]
    params = params_of(PixelDecoder(config), arrays, pixel_decoder_leaves(config), features)
    return config, features, params


@dataclasses.dataclass(frozen=True)
class MaskCase:
    """A text interaction and mask decoder, with their inputs."""

    interaction: InteractionConfig
    decoder: MaskDecoderConfig
    maps: list[np.ndarray]
    text: np.ndarray
    params: dict[str, Params]


@functools.cache
def mask_case(path: Path) -> MaskCase:
    """Loads the case in `path`; maps are at strides 32, 16, 8, then the mask features."""
    arrays, about = golden.load(path)
    c = about["config"]
    interaction = InteractionConfig(
        text_dim=c["text_dim"], inner=c["interaction_embed"], heads=c["interaction_heads"]
    )
    levels = sum(k.startswith("in/multi_scale") for k in arrays)
    decoder = MaskDecoderConfig(
        width=c["hidden"], mask_width=c["hidden"], queries=c["queries"],
        layers=c["decoder_layers"], heads=c["heads"], ffn=c["ffn"], levels=levels,
        class_dim=c["class_embed_dim"], class_hidden=c["class_embed_hidden"],
    )  # fmt: skip
    names = [f"multi_scale{i}" for i in range(levels)] + ["mask_features"]
    maps, text = [inputs(arrays, name) for name in names], arrays["in/text_features_with_nonobject"]
    looks = TextInteraction(interaction, decoder.width)
    return MaskCase(interaction, decoder, maps, text, {
        "interaction": params_of(looks, arrays, interaction_leaves(), maps, text),
        "decoder": params_of(
            MaskDecoder(decoder), arrays, mask_decoder_leaves(decoder), maps[:-1], maps[-1]
        ),
    })  # fmt: skip

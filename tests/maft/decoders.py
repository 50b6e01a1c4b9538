"""Builds the generator's parts from a golden file: parameters by the converter's own tables."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from openseg_jax.models.pixel_decoder import PixelDecoder, PixelDecoderConfig
from openseg_jax.types import Params
from openseg_jax.weights.generator import pixel_decoder_leaves
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
    source = {k.removeprefix("w/"): v for k, v in arrays.items() if k.startswith("w/")}
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

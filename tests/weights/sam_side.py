"""Random Segment Anything models on disk: written by transformers, or by us without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from openseg_jax.models.sam import SamConfig, sam_spec
from openseg_jax.types import Params
from openseg_jax.weights.safetensors import write_safetensors
from openseg_jax.weights.sam import config_from_json, to_state_dict
from openseg_jax.weights.tree import flatten, unflatten
from tests.weights.torch_side import libraries

PIXELS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
# A window that does not divide the 7×7 cells, blocks of both kinds in no regular order.
ODD: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 24, "output_channels": 32, "num_hidden_layers": 4,
        "num_attention_heads": 3, "image_size": 56, "patch_size": 8, "window_size": 3,
        "global_attn_indexes": [1], "num_pos_feats": 16, "mlp_dim": 40,
    },
    "prompt_encoder_config": {
        "hidden_size": 32, "image_size": 56, "patch_size": 8, "mask_input_channels": 8,
    },
    "mask_decoder_config": {
        "hidden_size": 32, "mlp_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "iou_head_hidden_dim": 20,
    },
}  # fmt: skip


def changed(**sections: dict[str, Any]) -> dict[str, Any]:
    """Returns `ODD` with other settings."""
    return {key: {**values, **sections.get(key, {})} for key, values in ODD.items()}


CASES: dict[str, dict[str, Any]] = {
    "odd": ODD,
    # Windows that fit, global blocks in a row and at the end, other depths of every part.
    "even": changed(
        vision_config={
            "image_size": 64, "window_size": 4, "num_hidden_layers": 5,
            "global_attn_indexes": [0, 3, 4], "mlp_dim": None, "mlp_ratio": 2.0,
            "layer_norm_eps": 1e-5,
        },
        prompt_encoder_config={"image_size": 64, "layer_norm_eps": 1e-5},
        mask_decoder_config={
            "num_hidden_layers": 3, "num_multimask_outputs": 2,
            "iou_head_depth": 4, "layer_norm_eps": 1e-4,
        },
    ),
    "no tables": changed(vision_config={"use_rel_pos": False, "use_abs_pos": False}),
}  # fmt: skip


def preprocessor(folder: Path, sizes: dict[str, Any]) -> None:
    """Writes preprocessor_config.json."""
    side = sizes["vision_config"]["image_size"]
    about = {
        **PIXELS, "size": {"longest_edge": side}, "pad_size": {"height": side, "width": side},
        "resample": 2, "image_processor_type": "SamImageProcessor",
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(about))


def drawn(config: SamConfig, seed: int = 0) -> Params:
    """Draws parameters, spread out so that every one of them shows in the results."""
    rng = np.random.default_rng(seed)
    flat = {}
    for name, leaf in flatten(sam_spec(config)).items():
        kernel = name.endswith("kernel")
        # Of a kernel all axes but the last, and of a stack's first, are summed over.
        added = leaf.shape[(1 if "/blocks/" in name else 0) : -1] if kernel else ()
        spread = float(np.prod(added)) ** -0.5 if kernel else 0.3
        x = rng.normal(0, spread, leaf.shape)
        flat[name] = (x + name.endswith("scale")).astype(np.float32)
    return unflatten(flat)


def write(folder: Path, sizes: dict[str, Any] = ODD, **drop: Any) -> tuple[SamConfig, Params]:
    """Writes a random model without torch; returns its configuration and parameters.

    Args:
        folder: where to.
        sizes: sections of config.json.
        drop: tensors to add or replace by name ("__" for "."), or to leave out where None.
    """
    about = {"model_type": "sam", **sizes}
    (folder / "config.json").write_text(json.dumps(about))
    preprocessor(folder, sizes)
    config = config_from_json(about, name=folder.name, file="config.json")
    params = drawn(config)
    state = to_state_dict(params, config) | {k.replace("__", "."): v for k, v in drop.items()}
    state = {name: x for name, x in state.items() if x is not None}
    write_safetensors(folder / "model.safetensors", state)
    return config, params


def save(folder: Path, sizes: dict[str, Any], seed: int = 0, **options: Any) -> Any:
    """Saves a random model with its configuration and preprocessor; returns it."""
    torch, transformers = libraries()
    torch.manual_seed(seed)
    model = transformers.SamModel(transformers.SamConfig(**sizes)).eval()
    with torch.no_grad():
        for name, x in model.named_parameters():
            # Spread out, so that every table, norm and activation shows in the results.
            x.normal_(0, 0.3 if x.ndim < 2 else float(np.prod(x.shape[1:])) ** -0.5)
            if "norm" in name and name.endswith("weight"):
                x.add_(1)
    model.save_pretrained(folder, **options)
    preprocessor(folder, sizes)
    return model

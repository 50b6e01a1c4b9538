"""Random Segment Anything models of transformers on disk; skips where torch is not installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

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
    side = sizes["vision_config"]["image_size"]
    about = {
        **PIXELS, "size": {"longest_edge": side}, "pad_size": {"height": side, "width": side},
        "resample": 2, "image_processor_type": "SamImageProcessor",
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    return model

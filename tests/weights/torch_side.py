"""Random transformers models on disk, for parity tests; skips where torch is not installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.weights.tiny import WORDS, tokenizer

INSTALL = "torch and transformers are not installed: pip install -e '.[parity]'"
VOCAB = len(WORDS) + 4


def libraries() -> tuple[Any, Any]:
    """Returns (torch, transformers), or skips the test saying how to get them."""
    torch = pytest.importorskip("torch", reason=INSTALL)
    transformers = pytest.importorskip("transformers", reason=INSTALL)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return torch, transformers


def save_model(folder: Path, kind: str, **towers: Any) -> Any:
    """Saves a random model of `kind` ("clip" or "siglip") with a tokenizer; returns the model.

    Args:
        folder: where to.
        kind: of model.
        towers: settings of both towers, e.g. hidden_act.
    """
    torch, transformers = libraries()
    text = {
        "vocab_size": VOCAB, "hidden_size": 24, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 16,
        "bos_token_id": VOCAB - 2, "eos_token_id": VOCAB - 1, "pad_token_id": 0, **towers,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8, **towers,
    }  # fmt: skip
    torch.manual_seed(0)
    if kind == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
        model = transformers.CLIPModel(config)
    else:
        text["hidden_size"] = 32
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        model = transformers.SiglipModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Spread out, so that a wrong activation, eps or mask shows in the outputs.
            scale = 0.3 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5
            parameter.normal_(0, scale)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
            if name == "logit_scale":
                parameter.fill_(2.5)
    model.eval().save_pretrained(folder)
    about = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "resample": 3}
    about["size"] = {"shortest_edge": 32} if kind == "clip" else {"height": 32, "width": 32}
    if kind == "clip":
        about |= {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    tokenizer().save(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}))
    return model


def outputs(model: Any, image: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Runs the torch model on channels-last images and token ids."""
    torch, _ = libraries()
    with torch.no_grad():
        out = model(
            pixel_values=torch.from_numpy(image.transpose(0, 3, 1, 2).copy()),
            input_ids=torch.from_numpy(ids.astype(np.int64)),
        )
    return {
        "image": out.image_embeds.numpy(),
        "text": out.text_embeds.numpy(),
        "logits": out.logits_per_image.numpy(),
        "patches": out.vision_model_output.last_hidden_state.numpy(),
    }

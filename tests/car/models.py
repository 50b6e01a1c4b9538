"""CLIPs for the CaR tests: the goldens' and tiny random ones."""

from __future__ import annotations

import functools
import json
from typing import Any

import jax
import numpy as np

from openseg_jax.methods.car import CaR
from openseg_jax.methods.car_config import configure
from openseg_jax.methods.car_texts import CarText, from_embeddings
from openseg_jax.models.clip import CLIP, init_params
from openseg_jax.models.variants import CLIPConfig, Preprocess, TextConfig, VisionConfig
from openseg_jax.text.tokenizer import word_tokenizer
from openseg_jax.weights.loaded import LoadedClip
from openseg_jax.weights.openai import from_state_dict
from openseg_jax.weights.report import Report
from tests import golden

WORDS = ("zebra", "ladybird", "lemon", "brick", "grass", "sand", "sky", "a", "photo", "of")


@functools.lru_cache(maxsize=8)
def golden_clip(name: str, folder: Any) -> LoadedClip:
    """Loads `weights_cam` or `weights_cls` of a golden folder."""
    arrays, _ = golden.load(folder / f"{name}.npz")
    meta = json.loads((folder / "weights.json").read_text())
    sizes = meta[{"weights_cam": "cam_model", "weights_cls": "cls_model"}[name]]
    state = {k.removeprefix("w/"): v.astype(np.float32) for k, v in arrays.items()}
    config, params, report = from_state_dict(
        state, vision_heads=sizes["vision_heads"], text_heads=sizes["text_heads"]
    )
    return LoadedClip(
        config, params, Preprocess(config.vision.image_size), word_tokenizer(WORDS, 77),
        {}, {}, report,
    )  # fmt: skip


@functools.lru_cache(maxsize=8)
def _text_encoder(clip: CLIP) -> Any:
    return jax.jit(lambda variables, ids: clip.apply(variables, ids, method=CLIP.encode_text))


def embed_ids(loaded: LoadedClip, ids: np.ndarray) -> np.ndarray:
    """Encodes token ids Int[... 77] to Float[... E]."""
    encode = _text_encoder(loaded.model())
    out = encode({"params": loaded.params}, ids.reshape(-1, ids.shape[-1]))
    return np.asarray(out).reshape(*ids.shape[:-1], -1)


@functools.lru_cache(maxsize=8)
def tiny_clip(
    seed: int = 0,
    *,
    pool: str = "class",
    depth: int = 3,
    patch: int = 8,
    size: int = 32,
    resize: str = "short_side_crop",
) -> LoadedClip:
    """Draws a random CLIP whose logits are spread enough to make decisions."""
    vision = VisionConfig(
        size, patch, 32, depth, 4, 64, "quick_gelu", pool=pool, pre_norm=pool == "class",
        conv_bias=pool == "map", proj=pool != "map",
    )  # fmt: skip
    embed = 24 if pool != "map" else 32
    tokenizer = word_tokenizer(WORDS, 12)
    text = TextConfig(12, len(WORDS) + 4, 32, 2, 4, 64, "quick_gelu")
    config = CLIPConfig("tiny", embed, vision, text)
    params = init_params(CLIP(config), jax.random.key(seed))
    rng = np.random.default_rng(seed)

    def spread(x: Any) -> np.ndarray:
        # Stacked kernels (depth, in, out) grow, so that attention is far from uniform.
        x = np.asarray(x, np.float32)
        if x.ndim < 3:
            return x
        return (x + 0.3 * rng.normal(size=x.shape) / x.shape[-2] ** 0.5).astype(np.float32)

    params = jax.tree.map(spread, params)
    params = {**params, "logit_scale": np.float32(np.log(12.0))}
    return LoadedClip(
        config, params, Preprocess(size, resize=resize), tokenizer, {}, {}, Report("tiny")
    )


def random_text(
    cam: LoadedClip,
    classifier: LoadedClip,
    count: int,
    *,
    rivals: int = 3,
    templates: int = 2,
    seed: int = 0,
) -> CarText:
    """Draws unit embeddings for texts that were never words."""
    rng = np.random.default_rng(seed)
    e, e2 = cam.config.embed_dim, classifier.config.embed_dim
    return from_embeddings(
        rng.normal(size=(count, e)), rng.normal(size=(templates, count, e2)),
        raw=rng.normal(size=(count, e)), background=rng.normal(size=(rivals, e)),
    )  # fmt: skip


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Draws smooth coloured noise, UInt8[H W 3]."""
    rng = np.random.default_rng(seed)
    small = rng.random((height // 6 + 2, width // 6 + 2, 3))
    big = np.kron(small, np.ones((6, 6, 1)))[:height, :width]
    return (255 * (0.8 * big + 0.2 * rng.random((height, width, 3)))).astype(np.uint8)


def car(cam: LoadedClip, classifier: LoadedClip, *, parity: str | None = None, dtype="float32",
        **settings: Any) -> CaR:  # fmt: skip
    """Builds CaR with any settings."""
    return CaR(cam, classifier, configure(parity=parity, **settings), dtype=dtype)

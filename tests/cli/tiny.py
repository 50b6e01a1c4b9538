"""A tiny CLIP with random weights as a model folder, and pictures to segment."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from openseg_jax.miniature.captions import vocabulary
from openseg_jax.models.variants import CLIPConfig, Preprocess, TextConfig, VisionConfig
from openseg_jax.text.tokenizer import word_tokenizer
from openseg_jax.weights.folder import save_folder
from openseg_jax.weights.tree import param_spec, unflatten

WORDS = ["zebra", "grass", "sky", "lemon", "a", "clean", "origami", "photo", "of", "scene"]


def make_model(folder, words, defaults):
    """Writes a model folder with random weights and a closed vocabulary."""
    config = CLIPConfig(
        name="tiny",
        embed_dim=16,
        vision=VisionConfig(32, 8, 32, 2, 2, 64, "quick_gelu"),
        text=TextConfig(12, len(words) + 4, 32, 1, 2, 64, "quick_gelu"),
    )
    rng = np.random.default_rng(0)
    params = {
        name: rng.normal(0, 0.2, leaf.shape).astype(np.float32)
        for name, leaf in param_spec(config).items()
    }
    save_folder(
        folder, config, unflatten(params), Preprocess(32), word_tokenizer(words, context=12),
        {"name": "tiny", "source": "tests", "licence": "Apache-2.0", "saw": "nothing"},
        defaults,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Path of a model folder; its two-block towers know `WORDS` and nothing about pictures."""
    car = {"templates": ["a photo of {}"], "confidence_threshold": 0}
    return make_model(
        tmp_path_factory.mktemp("models") / "tiny", WORDS, {"labels": WORDS[:4], "car": car}
    )


@pytest.fixture(scope="session")
def world_model(tmp_path_factory):
    """The same with the words of the miniature world."""
    words = [word for word in vocabulary() if word.isalnum()]
    car = {"templates": ["a photo of a {}"], "background": []}
    return make_model(tmp_path_factory.mktemp("models") / "world", words, {"car": car})


@pytest.fixture
def picture(tmp_path):
    """Path of a 40x48 PNG."""
    y, x = np.mgrid[:40, :48]
    rgb = np.stack([x * 5, y * 6, 255 * ((x // 6 + y // 6) % 2)], -1).astype(np.uint8)
    path = tmp_path / "in" / "photo.png"
    path.parent.mkdir()
    Image.fromarray(rgb).save(path)
    return path

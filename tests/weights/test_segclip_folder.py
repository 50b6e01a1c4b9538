"""A SegCLIP survives the way through a model folder, which stays a folder of its CLIP."""

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.models.segclip import SegCLIPConfig
from openseg_jax.models.variants import CLIPConfig, Preprocess, TextConfig, VisionConfig
from openseg_jax.text.tokenizer import word_tokenizer
from openseg_jax.weights.folder import load_folder
from openseg_jax.weights.segclip import segclip_spec
from openseg_jax.weights.segclip_folder import join_clip, save_segclip, segclip_of, split_clip
from openseg_jax.weights.tree import flatten, param_spec, unflatten

CONFIG = SegCLIPConfig(
    CLIPConfig(
        "mu", 8, VisionConfig(16, 8, 16, 3, 2, 32, "quick_gelu"),
        TextConfig(6, 7, 16, 1, 2, 32, "quick_gelu"),
    ),
    first_blocks=2, centers=3, cross_layers=1, recon_blocks=1, decoder_width=8, decoder_depth=1,
    decoder_heads=2,
    mask_ratio=0.5,
)  # fmt: skip
ABOUT = {"name": "mu", "source": "tests", "licence": "Apache-2.0", "saw": "nothing"}


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    drawn = {n: rng.normal(size=x.shape).astype("f4") for n, x in segclip_spec(CONFIG).items()}
    return unflatten(drawn)


def test_splitting_gives_a_whole_clip_and_is_undone(params):
    clip, rest = split_clip(CONFIG, params)
    assert {n: x.shape for n, x in flatten(clip).items()} == {
        n: x.shape for n, x in param_spec(CONFIG.clip).items()
    }
    after = flatten(params)["visual/blocks_after/mlp/c_fc/kernel"]
    np.testing.assert_array_equal(flatten(clip)["visual/blocks/mlp/c_fc/kernel"][2:], after)
    got = flatten(join_clip(CONFIG, clip, rest))
    for name, leaf in flatten(params).items():
        np.testing.assert_array_equal(got[name], leaf, err_msg=name)


def test_through_a_folder(params, tmp_path):
    save_segclip(
        tmp_path, CONFIG, params, Preprocess(16), word_tokenizer(["a", "zebra", "on"], 6), ABOUT,
        {"labels": ["zebra"]},
    )  # fmt: skip
    loaded = load_folder(tmp_path)
    config, got = segclip_of(loaded)
    assert config == CONFIG and loaded.defaults["labels"] == ["zebra"]
    for name, leaf in flatten(params).items():
        np.testing.assert_array_equal(flatten(got)[name], leaf, err_msg=name)


def test_errors(params, tmp_path):
    save_segclip(
        tmp_path, CONFIG, params, Preprocess(16), word_tokenizer(["a", "zebra", "on"], 6), ABOUT
    )
    loaded = load_folder(tmp_path)
    loaded.extras_config["segclip"]["centres"] = 3
    with pytest.raises(UserError, match="centres"):
        segclip_of(loaded)
    loaded.extras_config["segclip"].pop("centres")
    loaded.extras_config["segclip"]["centers"] = 5
    with pytest.raises(UserError, match="segclip: "):
        segclip_of(loaded)
    loaded.extras.clear()
    with pytest.raises(UserError, match="'mu' without one"):
        segclip_of(loaded)

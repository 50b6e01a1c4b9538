import json

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.text.tokenizer import openai_tokenizer
from openseg_jax.weights import open_clip
from openseg_jax.weights.load import detect, load_clip
from openseg_jax.weights.safetensors import write_safetensors
from openseg_jax.weights.tree import convert
from tests.weights.tiny import CLIP_MU, SIGLIP_MU, random_params, same, tokenizer, with_act

MODEL = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16,
                   "mlp_ratio": 2.0},
    "text_cfg": {"context_length": 16, "vocab_size": 10, "width": 24, "heads": 2, "layers": 2,
                 "mlp_ratio": 2.0, "hf_tokenizer_name": "mu"},
}  # fmt: skip
PREPROCESS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bicubic"}


def changed(**changes):
    model = json.loads(json.dumps(MODEL))
    for key, value in changes.items():
        if isinstance(value, dict):
            model.setdefault(key, {}).update(value)
        else:
            model[key] = value
    return model


def write(folder, model=MODEL, params=None, name="open_clip_model.safetensors"):
    params = random_params(CLIP_MU) if params is None else params
    about = {"model_cfg": model, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    state = dict(open_clip.to_state_dict(params, CLIP_MU))
    write_safetensors(folder / name, state)
    tokenizer().save(folder)
    return params


def parse(model):
    return open_clip.config_from_json(model, name="mu", file="open_clip_config.json")


def test_folder_round_trip(tmp_path):
    params = write(tmp_path)
    assert detect(tmp_path) == "open_clip"
    loaded = load_clip(tmp_path)
    assert same(loaded.params, params)
    assert loaded.config.vision == CLIP_MU.vision
    assert loaded.config.text == CLIP_MU.text
    assert loaded.preprocess.mean == (0.1, 0.2, 0.3)
    assert loaded.preprocess.size == 32
    assert loaded.tokenizer.pad == 0


@pytest.mark.parametrize(
    ("changes", "act"),
    [({}, "quick_gelu"), ({"quick_gelu": False}, "gelu")],
)
def test_activation_is_what_the_config_says(changes, act):
    # mlfoundations/open_clip#771: the wrong one loads without complaint and is wrong.
    config = parse(changed(**changes))
    assert config.vision.act == config.text.act == act


def test_tanh_and_eps():
    tanh = {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-6}}
    config = parse(changed(quick_gelu=False, vision_cfg=tanh, text_cfg=tanh))
    assert config.vision.act == config.text.act == "gelu_tanh"
    assert config.vision.eps == config.text.eps == 1e-6


def test_a_custom_text_tower_is_found_below_text(tmp_path):
    params = random_params(CLIP_MU)
    state = dict(open_clip.to_state_dict(params, CLIP_MU))
    plain = {k for k in state if not k.startswith("visual.") and k != "logit_scale"}
    moved = {f"text.{k}" if k in plain else k: v for k, v in state.items()}
    moved["text.attn_mask"] = np.zeros((16, 16))
    back, report = convert(
        moved, open_clip.leaves(CLIP_MU, moved), CLIP_MU, file="x", allow=[r"text\.attn_mask"]
    )
    assert same(params, back)
    assert report.ignored == ["text.attn_mask float64[16 16]"]


def test_siglip_names_are_timm_s_and_round_trip():
    params = random_params(SIGLIP_MU)
    state = dict(open_clip.to_state_dict(params, SIGLIP_MU))
    kv = state["visual.trunk.attn_pool.kv.weight"]
    assert kv.shape == (64, 32)
    value = params["visual"]["map_head"]["attn"]["value"]["kernel"]
    np.testing.assert_array_equal(kv[32:], value.T)
    assert state["visual.trunk.pos_embed"].shape == (1, 16, 32)
    assert state["visual.trunk.blocks.1.attn.qkv.weight"].shape == (96, 32)
    assert state["text.text_projection.weight"].shape == (32, 32)
    back, report = convert(state, open_clip.leaves(SIGLIP_MU, state), SIGLIP_MU, file="x")
    assert same(params, back)
    assert "visual/positional_embedding" in report.reshaped


def test_siglip_config():
    about = {
        "embed_dim": 1152, "init_logit_bias": -10, "custom_text": True,
        "vision_cfg": {"image_size": 384, "timm_model_name": "vit_so400m_patch14_siglip_384",
                       "timm_model_pretrained": False, "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": {"context_length": 64, "vocab_size": 32000, "hf_tokenizer_name": "x",
                     "tokenizer_kwargs": {"clean": "canonicalize"}, "width": 1152, "heads": 16,
                     "layers": 27, "mlp_ratio": 3.7362, "no_causal_mask": True,
                     "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}},
    }  # fmt: skip
    from openseg_jax.models.variants import variant

    want = variant("SigLIP-So400m-14-384")
    got = open_clip.config_from_json(about, name=want.name, file="f")
    assert got == want


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"vision_cfg": {"qk_norm": True}}, "vision_cfg: qk_norm = True is not supported"),
        ({"vision_cfg": {"attentional_pool": True}}, "attentional_pool"),
        ({"text_cfg": {"hf_model_name": "roberta"}}, "text_cfg: hf_model_name"),
        ({"multimodal_cfg": {"width": 3}}, "multimodal_cfg"),
        ({"text_cfg": {"act_kwargs": {"approximate": "tan"}}, "quick_gelu": False}, "'tanh'"),
        ({"vision_cfg": {"timm_model_name": "convnext_base"}}, "SigLIP"),
    ],
)
def test_what_we_would_ignore_is_an_error(changes, match):
    with pytest.raises(UserError, match=match):
        parse(changed(**changes))


def test_switches_that_are_off_are_nothing():
    parse(changed(vision_cfg={"qk_norm": False, "ls_init_value": None}))


@pytest.mark.parametrize("key", ["embed_dim", "vision_cfg", "text_cfg"])
def test_missing_sections_are_named(key):
    model = changed()
    del model[key]
    with pytest.raises(UserError, match=key):
        parse(model)


def test_weights_of_another_size_are_refused(tmp_path):
    write(tmp_path, changed(vision_cfg={"image_size": 64}))
    pattern = r"positional_embedding: expected \[65 32\], found float32\[17 32\]"
    with pytest.raises(UserError, match=pattern):
        load_clip(tmp_path)


def test_missing_weights_are_named(tmp_path):
    write(tmp_path)
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"open_clip_model.safetensors or open_clip_pytorch"):
        load_clip(tmp_path)


def test_without_a_tokenizer_the_shipped_vocabulary_serves(tmp_path):
    model = changed(text_cfg={"vocab_size": 49408})
    del model["text_cfg"]["hf_tokenizer_name"]
    write(tmp_path, model)
    (tmp_path / "tokenizer.json").unlink()
    from openseg_jax.weights.vocabulary import clip_vocabulary

    ours = clip_vocabulary(tmp_path, context=16, vocab_size=49408, pad_end=False)
    assert ours.to_dict() == openai_tokenizer(16).to_dict()
    with pytest.raises(UserError, match="vocabulary of 10"):
        clip_vocabulary(tmp_path, context=16, vocab_size=10, pad_end=False)


def test_another_activation_is_another_fingerprint(tmp_path):
    write(tmp_path)
    first = load_clip(tmp_path)
    (tmp_path / "open_clip_config.json").unlink()
    write(tmp_path, changed(quick_gelu=False))
    second = load_clip(tmp_path)
    assert first.fingerprint != second.fingerprint
    assert second.config.text == with_act(CLIP_MU, "gelu").text

"""Both towers against transformers, from a folder that transformers wrote."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.models.clip import CLIP
from openseg_jax.weights import huggingface
from openseg_jax.weights.load import detect, load_clip
from tests.weights.tiny import CLIP_MU, SIGLIP_MU, random_params, same
from tests.weights.torch_side import VOCAB, libraries, outputs, save_model

# Two blocks of float32 differ by rounding alone: about 1e-6 of the spread; ten times for safety.
RTOL = 1e-5


def inputs():
    draw = np.random.default_rng(1)
    image = draw.normal(size=(2, 32, 32, 3)).astype(np.float32)
    ids = np.zeros((3, 16), np.int32)
    for row, length in zip(ids, (1, 4, 14), strict=True):
        row[0] = VOCAB - 2
        row[1 : 1 + length] = draw.integers(2, VOCAB - 2, length)
        row[1 + length] = VOCAB - 1
    return image, ids


def ours(config, params, image, ids):
    run = jax.jit(lambda p: CLIP(config).apply({"params": p}, image, jnp.asarray(ids)))
    with jax.default_matmul_precision("highest"):
        zi, zt, scale, bias = run(params)
    return {"image": zi, "text": zt, "logits": zi @ zt.T * scale + bias}


def error(want, got, key):
    """Largest difference relative to the spread of what is wanted."""
    return np.abs(want[key] - np.asarray(got[key])).max() / want[key].std()


CASES = [
    ("clip", {}),
    ("clip", {"hidden_act": "gelu"}),
    ("clip", {"layer_norm_eps": 1e-2}),
    ("siglip", {}),
    ("siglip", {"hidden_act": "gelu", "layer_norm_eps": 1e-3}),
]


@pytest.mark.parametrize(("kind", "towers"), CASES)
def test_parity_with_transformers(tmp_path, kind, towers):
    model = save_model(tmp_path, kind, **towers)
    loaded = load_clip(tmp_path)
    assert detect(tmp_path) == "huggingface"
    image, ids = inputs()
    want = outputs(model, image, ids)
    got = ours(loaded.config, loaded.params, image, ids)
    for key in got:
        assert error(want, got, key) < RTOL, key


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_patch_tokens_match_transformers(tmp_path, kind):
    model = save_model(tmp_path, kind)
    loaded = load_clip(tmp_path)
    image, ids = inputs()
    want = outputs(model, image, ids)["patches"]
    variables = {"params": loaded.params}
    clip = CLIP(loaded.config)
    tokens = clip.apply(variables, image, method=lambda m, x: m.visual.run(m.visual.embed(x)))
    if kind == "siglip":
        # transformers' last hidden state of SigLIP is already normalised.
        tokens = clip.apply(variables, tokens, method=lambda m, x: m.visual.post(x))
    assert error({"x": want}, {"x": tokens}, "x") < RTOL


def change(config, tower, **fields):
    return dataclasses.replace(
        config, **{tower: dataclasses.replace(getattr(config, tower), **fields)}
    )


@pytest.mark.parametrize(
    ("kind", "key", "tower", "fields"),
    [
        ("clip", "image", "vision", {"act": "gelu"}),
        ("clip", "image", "vision", {"act": "gelu_tanh"}),
        ("clip", "text", "text", {"act": "gelu"}),
        ("clip", "image", "vision", {"eps": 1e-3}),
        ("clip", "text", "text", {"causal": False}),
        ("clip", "text", "text", {"pool": "last"}),
        ("clip", "image", "vision", {"heads": 4}),
        ("siglip", "image", "vision", {"act": "quick_gelu"}),
        ("siglip", "image", "vision", {"act": "gelu"}),
        ("siglip", "text", "text", {"causal": True}),
        ("siglip", "text", "text", {"pool": "argmax"}),
        ("siglip", "text", "text", {"eps": 1e-3}),
    ],
)
def test_a_wrong_variant_fails(tmp_path, kind, key, tower, fields):
    model = save_model(tmp_path, kind)
    loaded = load_clip(tmp_path)
    image, ids = inputs()
    got = ours(change(loaded.config, tower, **fields), loaded.params, image, ids)
    assert error(outputs(model, image, ids), got, key) > 4 * RTOL


def test_eps_of_another_family_shows_where_variance_is_small(tmp_path):
    model = save_model(tmp_path, "clip")
    loaded = load_clip(tmp_path)
    image, ids = inputs()
    # eps matters where a token hardly varies; a flat table of small numbers makes such tokens.
    torch, _ = libraries()
    with torch.no_grad():
        model.text_model.embeddings.token_embedding.weight.mul_(1e-3)
        model.text_model.embeddings.position_embedding.weight.mul_(1e-3)
    text = loaded.params["text"]
    text["token_embedding"] = text["token_embedding"] * np.float32(1e-3)
    text["positional_embedding"] = text["positional_embedding"] * np.float32(1e-3)
    want = outputs(model, image, ids)
    right = ours(loaded.config, loaded.params, image, ids)
    wrong = ours(change(loaded.config, "text", eps=1e-6), loaded.params, image, ids)
    assert error(want, right, "text") < RTOL
    assert error(want, wrong, "text") > 100 * RTOL


@pytest.mark.parametrize(("config", "kind"), [(CLIP_MU, "clip"), (SIGLIP_MU, "siglip")])
def test_what_we_write_transformers_reads(tmp_path, config, kind):
    torch, _ = libraries()
    params = random_params(config)
    state = {
        name: torch.from_numpy(np.array(array))
        for name, array in huggingface.to_state_dict(params, config)
    }
    model = save_model(tmp_path, kind)
    model.load_state_dict(state, strict=True)
    image, ids = inputs()
    want, got = outputs(model, image, ids), ours(config, params, image, ids)
    assert max(error(want, got, key) for key in got) < RTOL


@pytest.mark.parametrize("config", [CLIP_MU, SIGLIP_MU])
def test_round_trip_without_torch(config):
    params = random_params(config)
    state = dict(huggingface.to_state_dict(params, config))
    back, report = huggingface.convert(
        state, huggingface.leaves(config, state), config, file="memory"
    )
    assert same(params, back)
    assert not report.cast


def test_tokenizer_and_preprocess_come_from_the_folder(tmp_path):
    save_model(tmp_path, "clip")
    loaded = load_clip(tmp_path)
    assert loaded.tokenizer.pad == 0
    assert (loaded.tokenizer.start, loaded.tokenizer.end) == (VOCAB - 2, VOCAB - 1)
    assert loaded.preprocess.size == 32
    assert loaded.preprocess.mean == (0.4, 0.5, 0.6)
    assert loaded.preprocess.resize == "short_side_crop"
    assert "unknown" in loaded.provenance["saw"]


def test_sharded_weights_are_joined(tmp_path):
    model = save_model(tmp_path, "clip")
    before = load_clip(tmp_path).fingerprint
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert load_clip(tmp_path).fingerprint == before
    shard = sorted(tmp_path.glob("model-*.safetensors"))[-1]
    shard.unlink()
    with pytest.raises(UserError, match=f"names '{shard.name}'"):
        load_clip(tmp_path)


def test_pytorch_bin_is_read_too(tmp_path):
    torch, _ = libraries()
    model = save_model(tmp_path, "clip")
    before = load_clip(tmp_path).fingerprint
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert load_clip(tmp_path).fingerprint == before


def config_json(**changes):
    about = {"model_type": "clip", "text_config": {}, "vision_config": {}, "projection_dim": 512}
    return json.loads(json.dumps({**about, **changes}))


def test_left_out_keys_have_transformers_defaults():
    config = huggingface.config_from_json(config_json(), name="x", file="config.json")
    assert (config.vision.patch_size, config.vision.width, config.text.width) == (32, 768, 512)
    assert config.vision.act == config.text.act == "quick_gelu"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model_type": "siglip2"}, "model_type: unknown name 'siglip2'; did you mean 'siglip'"),
        ({"text_config": {"hidden_act": "gelu_new"}}, "hidden_act: unknown name 'gelu_new'"),
        ({"vision_config": {"num_channels": 4}}, "RGB"),
        ({"vision_config": {"num_attention_heads": 7}}, "divisor of width 768, got 7"),
    ],
)
def test_unsupported_configs_are_named(changes, match):
    with pytest.raises(UserError, match=match):
        huggingface.config_from_json(config_json(**changes), name="x", file="config.json")


@pytest.mark.parametrize(
    ("about", "want"),
    [
        ({"size": 224, "crop_size": 224}, (224, "short_side_crop", "bicubic")),
        ({"size": {"height": 384, "width": 384}, "resample": 2}, (384, "squash", "bilinear")),
        ({"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336},
          "do_center_crop": True}, (336, "short_side_crop", "bicubic")),
    ],
)  # fmt: skip
def test_preprocess_in_all_spellings(about, want):
    p = huggingface.preprocess_from_json(about, file="p")
    assert (p.size, p.resize, p.interpolation) == want

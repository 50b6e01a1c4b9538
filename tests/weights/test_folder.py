import json

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.weights import folder
from openseg_jax.weights.load import load_clip
from openseg_jax.weights.safetensors import read_safetensors, write_safetensors
from openseg_jax.weights.tree import flatten
from tests.weights.tiny import CLIP_MU, PREPROCESS, PROVENANCE, random_params, same, tokenizer


@pytest.fixture
def saved(tmp_path):
    params = random_params(CLIP_MU)
    path = tmp_path / "model"
    folder.save_folder(
        path, CLIP_MU, params, PREPROCESS, tokenizer(), PROVENANCE, {"labels": ["zebra"]}
    )
    return path, params


def test_round_trip(saved):
    path, params = saved
    loaded = load_clip(path)
    assert loaded.config == CLIP_MU
    assert loaded.preprocess == PREPROCESS
    assert loaded.provenance == PROVENANCE
    assert loaded.defaults == {"labels": ["zebra"]}
    assert same(loaded.params, params)
    texts = ["a photo of a zebra", "lemon"]
    np.testing.assert_array_equal(loaded.tokenizer.encode(texts), tokenizer().encode(texts))


@pytest.mark.parametrize(("dtype", "digits"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_half_precision_storage_is_near(saved, tmp_path, dtype, digits):
    _, params = saved
    path = tmp_path / dtype
    folder.save_folder(path, CLIP_MU, params, PREPROCESS, tokenizer(), PROVENANCE, dtype=dtype)
    back = flatten(load_clip(path).params)
    for name, want in flatten(params).items():
        np.testing.assert_allclose(back[name], want, rtol=digits, atol=1e-6)
    assert any((back[k] != v).any() for k, v in flatten(params).items())


def test_fingerprint_follows_the_numbers(saved, tmp_path):
    path, params = saved
    again = tmp_path / "again"
    folder.save_folder(again, CLIP_MU, params, PREPROCESS, tokenizer(), PROVENANCE)
    assert load_clip(path).fingerprint == load_clip(again).fingerprint
    params["logit_scale"] = params["logit_scale"] + np.float32(1e-6)
    folder.save_folder(again, CLIP_MU, params, PREPROCESS, tokenizer(), PROVENANCE)
    assert load_clip(path).fingerprint != load_clip(again).fingerprint


def test_float16_overflow_is_refused_and_leaves_nothing(saved, tmp_path):
    _, params = saved
    params["visual"]["ln_post"]["bias"] = np.full(32, 1e5, np.float32)
    path = tmp_path / "half"
    with pytest.raises(UserError, match=r"visual/ln_post/bias.*65504.*bfloat16"):
        folder.save_folder(
            path, CLIP_MU, params, PREPROCESS, tokenizer(), PROVENANCE, dtype="float16"
        )
    assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_params_that_do_not_fit_are_refused(saved, tmp_path):
    _, params = saved
    del params["logit_scale"]
    with pytest.raises(UserError, match="logit_scale"):
        folder.save_folder(tmp_path / "x", CLIP_MU, params, PREPROCESS, tokenizer(), PROVENANCE)


def test_incomplete_provenance_is_refused(saved, tmp_path):
    _, params = saved
    with pytest.raises(UserError, match="licence, saw"):
        folder.save_folder(
            tmp_path / "x", CLIP_MU, params, PREPROCESS, tokenizer(), {"name": "a", "source": "b"}
        )


def rewrite(path, change):
    about = json.loads((path / "config.json").read_text())
    change(about)
    (path / "config.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda a: a.update(version=9), "version 9"),
        (lambda a: a.pop("tokenizer"), "section 'tokenizer'"),
        (lambda a: a["model"]["vision"].update(act="gelo"), "gelu"),
        (lambda a: a["model"]["vision"].pop("width"), "missing width"),
        (lambda a: a["model"]["vision"].update(depth=3), r"expected \[3 .*found float32\[2 "),
        (lambda a: a["tokenizer"].update(kind="words"), "tokenizer kind"),
        (lambda a: a["tokenizer"].update(colour=1), "tokenizer: expected"),
    ],
)
def test_a_spoilt_config_is_named(saved, change, match):
    path, _ = saved
    rewrite(path, change)
    with pytest.raises(UserError, match=match):
        folder.load_folder(path)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_weights_are_named(saved, keep):
    path, _ = saved
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model.safetensors: expected a complete"):
        folder.load_folder(path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(saved, name):
    path, _ = saved
    (path / name).unlink()
    with pytest.raises(UserError, match=name):
        folder.load_folder(path)


def test_our_safetensors_is_the_library_s(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(4, np.int64)}
    write_safetensors(tmp_path / "ours", arrays, metadata={"k": "v"})
    theirs = library.load_file(tmp_path / "ours")
    library.save_file(arrays, tmp_path / "theirs")
    ours = read_safetensors(tmp_path / "theirs")
    for name, want in arrays.items():
        np.testing.assert_array_equal(theirs[name], want)
        np.testing.assert_array_equal(np.asarray(ours[name]), want)
        assert ours[name].dtype == want.dtype


def test_entries_that_lie_are_refused(tmp_path):
    path = tmp_path / "x"
    write_safetensors(path, {"a": np.ones(4, np.float32)})
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"shape":[4]', b'"shape":[9]'))
    with pytest.raises(UserError, match="'a' whose size and shape differ"):
        read_safetensors(path)
    path.write_bytes(data.replace(b'"F32"', b'"Q32"'))
    with pytest.raises(UserError, match="'a' that cannot be read"):
        read_safetensors(path)


EXTRA = {
    "visual": {"ln_post": {"scale": np.arange(3, dtype=np.float32)}},
    "ids": np.array([4, 5], np.int64),
}


def save_extra(path, extras, settings, **more):
    params = random_params(CLIP_MU)
    folder.save_folder(
        path, CLIP_MU, params, PREPROCESS, tokenizer(), PROVENANCE,
        extras=extras, extras_config=settings, **more,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_extras_travel_with_the_clip(saved, tmp_path, dtype):
    path = tmp_path / "more"
    save_extra(path, {"maft": EXTRA}, {"maft": {"start_block": 8}}, dtype=dtype)
    assert (path / "maft.safetensors").is_file()
    loaded = load_clip(path)
    assert same(dict(loaded.extras["maft"]), EXTRA)
    back = flatten(loaded.extras["maft"])
    assert back["ids"].dtype == np.int64
    assert back["visual/ln_post/scale"].dtype == np.float32
    assert loaded.extras_config == {"maft": {"start_block": 8}}
    assert loaded.fingerprint != load_clip(saved[0]).fingerprint
    assert not load_clip(saved[0]).extras


@pytest.mark.parametrize(
    ("extras", "settings"),
    [({"model": EXTRA}, {}), ({"../x": EXTRA}, {}), ({}, {"maft": {"start_block": 8}})],
)
def test_extras_with_a_bad_name_are_refused(tmp_path, extras, settings):
    with pytest.raises(UserError, match="extras: expected names"):
        save_extra(tmp_path / "x", extras, settings)


def test_a_missing_extra_is_named(tmp_path):
    save_extra(tmp_path / "x", {"maft": EXTRA}, {})
    (tmp_path / "x" / "maft.safetensors").unlink()
    with pytest.raises(UserError, match=r"maft\.safetensors"):
        load_clip(tmp_path / "x")
    rewrite(tmp_path / "x", lambda about: about.update(extras={"../maft": {}}))
    with pytest.raises(UserError, match="extras: an object"):
        load_clip(tmp_path / "x")

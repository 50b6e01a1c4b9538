"""Segment Anything's folders: every name used or reported, and mistakes told."""

import json
import math

import jax
import numpy as np
import pytest

from openseg_jax.cli import models as models_verb
from openseg_jax.errors import UserError
from openseg_jax.models.sam import sam_spec
from openseg_jax.weights import registry
from openseg_jax.weights.load import load_clip
from openseg_jax.weights.sam import config_from_json, leaves, load_sam
from openseg_jax.weights.tree import flatten
from tests.weights.sam_side import ODD, save, write
from tests.weights.torch_side import libraries

TABLE = "shared_image_embedding.positional_embedding"
TWIN = "prompt_encoder.shared_embedding.positional_embedding"
# The published sizes, as transformers' own configurations of them.
PUBLISHED = {
    "SAM-B": {},
    "SAM-L": {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
        "global_attn_indexes": [5, 11, 17, 23],
    },
    "SAM-H": {
        "hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16,
        "global_attn_indexes": [7, 15, 23, 31],
    },
}  # fmt: skip


def full_size(name):
    about = {"model_type": "sam", "vision_config": PUBLISHED[name]}
    return config_from_json(about, name=name, file="config.json")


def test_what_is_written_is_read(tmp_path):
    config, params = write(tmp_path)
    loaded = load_sam(tmp_path)
    assert loaded.config.encoder == config.encoder and loaded.config.decoder == config.decoder
    np.testing.assert_allclose(loaded.config.mean, [102, 127.5, 153])
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    # The twin of the shared table is the one name that is there twice.
    assert [line.split()[0] for line in loaded.report.ignored] == [TWIN]
    assert not loaded.report.unexpected
    assert loaded.provenance["licence"].startswith("unknown")
    assert load_sam(loaded) is loaded


def test_either_name_of_the_shared_table_serves(tmp_path):
    for name in (TABLE, TWIN):
        _, params = write(tmp_path, ODD, **{name.replace(".", "__"): None})
        loaded = load_sam(tmp_path)
        np.testing.assert_array_equal(
            loaded.params["prompts"]["frequencies"], params["prompts"]["frequencies"]
        )
        assert not loaded.report.ignored
    write(tmp_path, ODD, **{TWIN.replace(".", "__"): np.zeros((2, 16), np.float32)})
    with pytest.raises(UserError, match="are one table and differ"):
        load_sam(tmp_path)


def test_files_of_torch_are_read_too(tmp_path):
    torch, _ = libraries()
    model = save(tmp_path, ODD)
    want = load_sam(tmp_path).params
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    loaded = load_sam(tmp_path)
    assert [line.split()[0] for line in loaded.report.ignored] == [TWIN]
    jax.tree.map(np.testing.assert_array_equal, loaded.params, want)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_their_number_of_parameters(name):
    count = sum(math.prod(leaf.shape) for leaf in flatten(sam_spec(full_size(name))).values())
    assert abs(registry.SAMS[name].parameters - count / 1e6) < 0.06


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_key_of_transformers_full_size_model_maps(name):
    torch, transformers = libraries()
    theirs = transformers.SamConfig(vision_config=PUBLISHED[name])
    with torch.device("meta"):
        state = transformers.SamModel(theirs).state_dict()
    about = json.loads(theirs.to_json_string(use_diff=False))
    config = config_from_json(about, name=name, file="config.json")
    # What a file leaves out is what transformers assumes.
    assert config == full_size(name)
    spec, used = flatten(sam_spec(config)), set()
    for leaf in leaves(config):
        shape = spec.pop(leaf.target).shape
        for i in range(shape[0]) if leaf.per_block else (None,):
            key = leaf.source.format(i=i)
            assert tuple(state[key].shape) == leaf.source_shape(shape), key
            used.add(key)
    assert set(state) - used == {TWIN} and not spec


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("vision_config", {"qkv_bias": False}, "vision_config.qkv_bias: expected True, got False"),
        ("vision_config", {"hidden_act": "gelo"}, "did you mean 'gelu'"),
        ("vision_config", {"window_size": 0}, "window_size: expected a whole number of 1 or more"),
        ("vision_config", {"num_attention_heads": 5}, "expected a divisor of 24, got 5"),
        ("vision_config", {"num_pos_feats": 8}, "num_pos_feats: expected 16, got 8"),
        ("prompt_encoder_config", {"image_size": 64}, "image_size: expected 56, got 64"),
        ("mask_decoder_config", {"attention_downsample_rate": 4}, "expected 2, got 4"),
        ("mask_decoder_config", {"hidden_act": "gelu"}, "hidden_act: expected 'relu'"),
        ("mask_decoder_config", {"num_hidden_layers": True}, "a whole number of 1 or more"),
    ],
)
def test_other_architectures_are_refused(section, change, message):
    about = {"model_type": "sam", **ODD, section: {**ODD[section], **change}}
    with pytest.raises(UserError, match=message):
        config_from_json(about, name="x", file="config.json")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="expected a Segment Anything's folder with config"):
        load_sam(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(UserError, match="model_type: expected 'sam', got 'clip'"):
        load_sam(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "sam", "vision_config": 3}')
    with pytest.raises(UserError, match="vision_config: expected an object, got 3"):
        load_sam(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam", **ODD}))
    with pytest.raises(UserError, match=r"preprocessor_config\.json: missing"):
        load_sam(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"longest_edge": 64}}')
    with pytest.raises(UserError, match=r"'longest_edge': 56\}, got \{'longest_edge': 64"):
        load_sam(tmp_path)


def test_weights_that_do_not_fit_are_named(tmp_path):
    name = "mask_decoder.iou_token.weight"
    write(tmp_path, ODD, **{name.replace(".", "__"): None, "strange": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match=rf"1 missing: {name} \[1 32\] \| 1 unexpected: strange"):
        load_sam(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"expected model\.safetensors"):
        load_sam(tmp_path)


def test_names_and_paths(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="did you mean 'SAM-H'"):
        load_sam("sam-huge")
    for path in ("./nowhere", "no/where", str(tmp_path / "x")):
        with pytest.raises(UserError, match="nothing there"):
            load_sam(path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a file"):
        load_sam(tmp_path / "file")

    def refuse(entry, stem, *, local):
        raise OSError("no route to host")

    monkeypatch.setattr(registry, "_snapshot", refuse)
    with pytest.raises(UserError, match=r"hf download facebook/sam-vit-huge.*leave --sam out"):
        load_sam("SAM-H")
    write(tmp_path)
    monkeypatch.setattr(registry, "_snapshot", lambda entry, stem, local: tmp_path)
    loaded = load_sam("SAM-H")
    assert loaded.config.name == "SAM-H"
    assert loaded.provenance == registry.SAMS["SAM-H"].provenance()
    assert loaded.provenance["licence"] == "Apache-2.0"


def test_a_sam_is_no_clip(tmp_path):
    with pytest.raises(UserError, match=r"model: expected a CLIP, got 'SAM-B'.*--sam"):
        load_clip("SAM-B")
    write(tmp_path)
    with pytest.raises(UserError, match="model_type: expected a CLIP, got Segment Anything"):
        load_clip(tmp_path)


def test_models_are_listed_as_another_kind(monkeypatch):
    monkeypatch.setattr(models_verb, "cached_folder", lambda entry: None)
    kinds = {row["name"]: row["kind"] for row in models_verb.rows()}
    assert kinds["ViT-B-16"] == kinds["miniature"] == "clip"
    assert {name for name, kind in kinds.items() if kind == "sam"} == set(registry.SAMS)

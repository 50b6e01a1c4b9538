"""SegCLIP's training from each kind of input, on tiny data, to a folder that loads."""

import json
import logging
import sys

import jax
import numpy as np
import pytest
from openseg_jax.configs.segclip_pretrain import get_config

from openseg_jax.errors import UserError
from openseg_jax.inputs.pipeline import batch_spec, batches
from openseg_jax.train import setup
from openseg_jax.train.export import export_state
from openseg_jax.train.loop import train
from openseg_jax.train.state import flat_names
from openseg_jax.weights.folder import load_folder
from openseg_jax.weights.segclip_folder import segclip_of
from tests.inputs.captioned import FakeTfds, pairs, write_folder, write_shard

KINDS = ("folder", "webdataset", "tfds")


pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Writes eight pairs in each format; pair 1 is broken and pair 4 has no caption."""
    found = pairs(8, broken=(1,), empty=(4,))
    write_folder(tmp_path / "folder", found)
    write_shard(tmp_path / "webdataset" / "00000.tar", found[:5])
    write_shard(tmp_path / "webdataset" / "00001.tar", found[5:], first=5)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", FakeTfds(found))
    return tmp_path


def config_for(kind, data, steps=2):
    config = get_config("tiny")
    config.input.name, config.input.path, config.input.shuffle = kind, str(data / kind), False
    config.input.cache = str(data / "cache")
    config.steps = steps
    return config


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_each_kind(kind, data):
    built = setup.build(config_for(kind, data))
    spec = batch_spec(built.source, 4)
    assert {n: (s.shape, str(s.dtype)) for n, s in spec.items()} == {
        "image": ((4, 32, 32, 3), "uint8"),
        "ids": ((4, 16), "int32"),
        "caption": ((4,), "int32"),
        "superpixels": ((4, 4, 4), "int32"),
        "skipped": ((4, 2), "int32"),
    }
    stream = batches(built.source, 4, shuffle=False)
    told = [next(stream)["skipped"].sum(0).tolist() for _ in range(2)]
    # TFDS has five examples of each picture, so the broken one is met in the second batch too.
    assert told == {"tfds": [[0, 0], [3, 0]]}.get(kind, [[1, 0], [0, 1]])
    assert str(data) in built.saw or "coco_captions" in built.saw
    # superpixels are kept
    assert list((data / "cache").rglob("*.npz"))


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_training_resumes_counts_what_it_skips_and_exports(data):
    config = config_for("folder", data)
    # A schedule that does not depend on the number of steps, which this test changes.
    config.optim.schedule, config.optim.warmup = "constant", 0
    straight = train(config, data / "straight", show=False)
    config.steps = 1
    train(config, data / "stopped", show=False)
    config.steps = 2
    resumed = train(config, data / "stopped", show=False)
    for name, leaf in flat_names(jax.device_get(straight.params)).items():
        np.testing.assert_array_equal(flat_names(resumed.params)[name], leaf, err_msg=name)
    rows = rows_of(data / "straight")
    assert [row["skipped"] for row in rows] == [1.0, 2.0]
    assert {"contrastive", "reconstruction", "superpixel"} <= set(rows[0])
    export_state(config, data / "model", resumed)
    found, params = segclip_of(load_folder(data / "model"))
    assert found.centers == config.task.segclip.centers
    want = flat_names(jax.device_get(resumed.params))
    for name, leaf in flat_names(params).items():
        np.testing.assert_allclose(leaf, want[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_training_from_each_kind(kind, data):
    train(config_for(kind, data), data / "run", show=False)
    assert rows_of(data / "run")[-1]["skipped"] >= 2


@pytest.mark.slow
def test_the_published_mixing_is_that_of_one_device(data):
    config = config_for("folder", data)
    config.task.segclip.update(cross_batch_kv="torch18", scramble_images=2)
    task = setup.build(config).task
    assert task.model.cross_batch_kv == "torch18" and task.model.scramble_images == 2
    # Fresh parameters are drawn with a single picture, which is no whole device.
    assert jax.eval_shape(task.init, jax.random.key(0), {})[0]["visual"]["group"]


@pytest.mark.slow
def test_starting_from_a_clip_keeps_what_it_has(world_model):
    config = get_config("tiny")
    config.init = str(world_model)
    built = setup.build(config)
    assert built.config.clip.vision.depth == 2 and built.tokenizer.context == 12
    params, _ = built.task.init(jax.random.key(0), {})
    clip = load_folder(world_model).params
    np.testing.assert_array_equal(
        params["visual"]["blocks_after"]["ln_1"]["scale"],
        clip["visual"]["blocks"]["ln_1"]["scale"][1:],
    )
    assert "tiny" in built.saw and built.licence == "Apache-2.0"


def test_parts_of_a_batch_that_lose_negatives_are_warned_of(data, caplog):
    caplog.set_level(logging.WARNING)
    config = config_for("folder", data)
    setup.build(config)
    assert "negatives" not in caplog.text
    config.accumulate = 2
    setup.build(config)
    assert "each of the 2 parts of a batch has no negatives beyond its own 2 pairs" in caplog.text


def test_rules_of_the_recipe_match_the_published_groups():
    from openseg_jax.train.optim import match_rules
    from openseg_jax.weights.segclip import segclip_spec

    config = get_config()
    names = list(segclip_spec(setup.build(get_config("tiny")).config))
    slow = match_rules(config.optim.multiplier, names, "multiplier")
    trained = match_rules(config.task.trainable, names, "trainable")
    decay = match_rules(config.optim.weight_decay, names, "decay")
    assert slow["visual/blocks/ln_1/scale"] == slow["text/blocks/ln_1/bias"] == 1e-3
    assert slow["visual/blocks_after/ln_1/scale"] == slow["visual/group/center_embedding"] == 1.0
    assert not trained["visual/conv1/kernel"] and not trained["text/token_embedding"]
    assert trained["visual/ln_post/scale"] and trained["logit_scale"]
    assert decay["visual/ln_post/scale"] == decay["logit_scale"] == 0.05
    assert decay["visual/group/proj/mlp/c_fc/bias"] == 0.0


def test_data_that_is_not_there_is_said_before_weights_are_loaded():
    config = get_config()
    with pytest.raises(UserError, match=r"input\.path: .*cc3m/00000\.tar and \d+ more"):
        setup.build(config)
    config.input.context = 99
    config.init, config.input.name = "", "miniature"
    with pytest.raises(UserError, match=r"input\.context"):
        setup.build(config)

import functools
import logging as std_logging
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from openseg_jax.configs import miniature_clip, miniature_maft, miniature_segclip
from PIL import Image

from openseg_jax.errors import UserError
from openseg_jax.eval.gates import clip_scores
from openseg_jax.train import setup, zero_shot
from openseg_jax.train.sharding import make_mesh
from openseg_jax.train.state import TrainState, flat_names
from openseg_jax.train.zero_shot import MiniatureCrops, evaluate_state, open_pictures, rank_of
from openseg_jax.weights.load import load_clip

pytestmark = pytest.mark.usefixtures("compile_once")

# Of the miniature's; two batches, the second of them with padding.
_CROPS = 80


def _config(kind=miniature_clip, **evaluate):
    config = kind.get_config("tiny")
    config.evaluate.update({"every": 1, "path": "miniature:test:1", **evaluate})
    return config


@functools.cache
def _miniature() -> Any:
    """The shipped weights with their evaluation on some crops."""
    config = _config(limit=_CROPS)
    config.init, config.scan = "miniature", True
    built: Any = setup.build(config)
    return built, built.evaluator(config, make_mesh(devices=jax.devices()[:1]))


def test_ranks_agree_with_a_sort():
    score = np.random.default_rng(0).normal(size=(40, 7)).astype(np.float32)
    score[:5] = 0.0  # equal scores: the first class comes first, as argmax has it
    label = np.arange(40) % 7
    order = np.argsort(-score, axis=1, kind="stable")
    want = [int(np.flatnonzero(row == k)[0]) for row, k in zip(order, label, strict=True)]
    np.testing.assert_array_equal(rank_of(jnp.asarray(score), jnp.asarray(label)), want)


def test_crops_are_those_of_the_gates_and_known():
    built, evaluate = _miniature()
    found = evaluate(built.task.start)
    assert found["zero_shot/pictures"] == _CROPS
    assert 0.8 < found["zero_shot/top1"] <= found["zero_shot/top5"] <= 1.0
    # the wrong variant: names in another order
    crops = evaluate.pictures
    names, crops.names = crops.names, crops.names[::-1]
    assert evaluate(built.task.start)["zero_shot/top1"] < 0.3
    crops.names = names


@pytest.mark.slow
def test_the_accuracy_is_that_of_the_gates(monkeypatch):
    scores = clip_scores(load_clip("miniature"), seed=1, scenes=100)
    monkeypatch.setattr(zero_shot, "_SCENES", 100)
    config = _config(limit=0)
    config.init = "miniature"
    built: Any = setup.build(config)
    evaluate = built.evaluator(config, make_mesh(devices=jax.devices()[:1]))
    found = evaluate(built.task.start)
    assert found["zero_shot/pictures"] == scores.crops
    # Two programs round differently: a crop on the edge may fall on either side.
    np.testing.assert_allclose(found["zero_shot/top1"], scores.top1, atol=1.5 / scores.crops)


def test_counts_are_exact_whatever_the_batch(monkeypatch):
    built, evaluate = _miniature()
    whole = evaluate(built.task.start)
    monkeypatch.setattr(zero_shot, "_ROWS", 40)  # a divisor: no padding
    assert evaluate(built.task.start) == whole


def test_a_state_with_averages_is_measured_twice():
    built, evaluate = _miniature()
    params = jax.tree.map(jnp.asarray, built.task.start)
    flat = flat_names(params)
    zeros = {name: jnp.zeros_like(x) for name, x in flat.items() if name.startswith("visual/proj")}
    plain = evaluate_state(evaluate, TrainState(jnp.int32(1), params, ()))
    both = evaluate_state(evaluate, TrainState(jnp.int32(1), params, (), zeros))
    assert plain == {key: both[key] for key in plain}
    assert both["zero_shot_average/top1"] < 0.2 < both["zero_shot/top1"]


def _flat(built):
    """Parameters that are all alike: quicker than drawing them."""
    shapes = jax.eval_shape(lambda key: built.task.init(key, {})[0], jax.random.key(0))
    return jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, np.float32), shapes)


class _Broken:
    """Three classes, every other picture cannot be read."""

    names = ("zebra", "lemon", "egg")

    def __len__(self):
        return 7

    def __getitem__(self, index):
        if index % 2:
            raise UserError(f"{index}.png: the picture is damaged")
        return np.full((5, 9, 3), 30 * index, np.uint8), index % 3


def test_broken_pictures_are_left_out_and_few_classes_have_no_top5(caplog):
    config = _config()
    built: Any = setup.build(config)
    evaluate = built.evaluator(config, make_mesh(devices=jax.devices()[:1]))
    object.__setattr__(evaluate, "pictures", _Broken())
    params = _flat(built)
    with caplog.at_level(std_logging.WARNING, logger="absl"):
        found = evaluate(params)
    assert set(found) == {"zero_shot/top1", "zero_shot/pictures"}
    assert found["zero_shot/pictures"] == 4


def test_segclip_is_measured_by_its_images_and_folders_by_their_names(tmp_path):
    for kind in ("lemon", "zebra"):
        (tmp_path / kind).mkdir()
        Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(tmp_path / kind / "0.png")
    config = _config(miniature_segclip, path=str(tmp_path), templates="simple")
    built: Any = setup.build(config)
    evaluate = built.evaluator(config, make_mesh(devices=jax.devices()[:1]))
    assert evaluate.templates == ("a photo of a {}.",)
    params = _flat(built)
    # Both pictures are the same: one of the two names is right.
    assert evaluate(params) == {"zero_shot/top1": 0.5, "zero_shot/pictures": 2.0}


def test_what_cannot_be_evaluated_is_said_before_training():
    assert setup.build(_config(every=0)).evaluator(_config(every=0), None) is None  # type: ignore
    with pytest.raises(UserError, match=r"evaluate\.every.*maft_stage2"):
        setup.build(_config(miniature_maft))
    for changed, told in (
        ({"path": ""}, r"evaluate\.path"),
        ({"path": "miniature:tst"}, "stream"),
        ({"path": "miniature:test:x"}, "SEED"),
        ({"path": "miniature", "labels": "voc20"}, r"evaluate\.labels"),
        ({"limit": -1}, r"evaluate\.limit"),
        ({"every": -1}, r"evaluate\.every"),
        ({"templates": "openai8"}, "openai80"),
    ):
        config = _config(**changed)
        with pytest.raises(UserError, match=told):
            setup.build(config).evaluator(config, make_mesh(devices=jax.devices()[:1]))  # type: ignore


def test_the_default_stream_is_the_one_to_choose_by():
    default = open_pictures("miniature", limit=3)
    assert np.array_equal(default[0][0], MiniatureCrops("val", 0, 3)[0][0])
    assert not np.array_equal(default[0][0], MiniatureCrops("test", 0, 3)[0][0])


_EIGHT = """
import jax
from openseg_jax.configs.miniature_clip import get_config
from openseg_jax.train import setup
from openseg_jax.train.program import make_program
from openseg_jax.train.sharding import make_mesh
from openseg_jax.train.state import flat_names
from openseg_jax.train.zero_shot import evaluate_state

config = get_config("tiny")
config.init, config.scan, config.average.decay = "miniature", True, 0.9
config.evaluate.update({"every": 1, "path": "miniature:test", "limit": 200})

def measured(mesh):
    built = setup.build(config, mesh)
    params, _ = built.task.init(jax.random.key(0), {})
    state = make_program(config, built.task, mesh, params).start(params)
    return state, evaluate_state(built.evaluator(config, mesh), state)

_, one = measured(make_mesh(devices=jax.devices()[:1]))
state, eight = measured(make_mesh(data=2, fsdp=2, tensor=2))
params = flat_names(state.params)
for name, mean in state.average.items():
    assert mean.sharding == params[name].sharding, name
kernel = state.average["visual/blocks/mlp/c_fc/kernel"]
assert kernel.addressable_shards[0].data.shape == (6, 64, 256), "not sharded"
# Other devices add in another order: a crop on the edge may fall on either side.
assert one.keys() == eight.keys() and one["zero_shot/pictures"] == eight["zero_shot/pictures"]
assert all(abs(one[key] - eight[key]) <= 0.01 for key in one), (one, eight)
print("equal")
"""


@pytest.mark.slow
def test_eight_devices_find_what_one_finds_and_averages_are_sharded():
    flags = "--xla_force_host_platform_device_count=8"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", _EIGHT], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "equal"

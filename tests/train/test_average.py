import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from openseg_jax.configs.miniature_clip import get_config

from openseg_jax.errors import UserError
from openseg_jax.train.average import averaged_params, check_decay, follow, start_average
from openseg_jax.train.checkpoint import Checkpoints
from openseg_jax.train.export import export_state
from openseg_jax.train.loop import train
from openseg_jax.train.sharding import TRANSFORMER_RULES, make_mesh, state_sharding
from openseg_jax.train.state import TrainState, flat_names
from openseg_jax.train.step import init_state, make_train_step
from openseg_jax.weights.folder import load_folder
from tests.train.toy import Line

pytestmark = pytest.mark.usefixtures("compile_once")

KEY = jax.random.key(0)
DECAY = 0.4
TRAINED = frozenset(["line/w", "line/b"])


def _batch(seed, x0=0.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(8, 3)).astype(np.float32)
    x[0, 0] = x0
    return {"x": jnp.asarray(x), "y": jnp.asarray(x @ np.float32([1, -2, 3]) + 2)}


def _run(batches, decay=DECAY):
    task, tx = Line(nan_at=100.0), optax.sgd(0.1)
    params, frozen = task.init(KEY, None)
    step = jax.jit(make_train_step(task, tx, TRAINED, average=decay))
    states = [init_state(params, tx, TRAINED, average=decay > 0)]
    for batch in batches:
        states.append(step(states[-1], frozen, batch, KEY)[0])
    return states


def _mean(states, decay, kept):
    """The average by hand, in float64."""
    mean = np.asarray(states[0].params["line"]["w"], np.float64)
    for done, state in enumerate(states[1:]):
        d = kept(decay, done)
        mean = d * mean + (1 - d) * np.asarray(state.params["line"]["w"], np.float64)
    return mean


def test_the_average_follows_the_formula():
    states = _run([_batch(i) for i in range(6)])
    want = _mean(states, DECAY, lambda decay, done: min(decay, (1 + done) / (10 + done)))
    np.testing.assert_allclose(states[-1].average["line/w"], want, rtol=1e-5)
    # the wrong variant: no warm-up, so that the untrained start lingers
    wrong = _mean(states, DECAY, lambda decay, done: decay)
    assert np.abs(states[-1].average["line/w"] - wrong).max() > 1e-3


def test_only_what_is_trained_is_averaged_in_float32_and_after_the_constraint():
    states = _run([_batch(i) for i in range(9)])
    last = states[-1]
    assert set(last.average) == TRAINED
    assert {x.dtype for x in last.average.values()} == {jnp.dtype("float32")}
    # The line's offset would pass 0.5 without the task's constraint.
    assert float(last.average["line/b"]) <= 0.5 and float(last.params["line"]["b"]) == 0.5
    mixed = averaged_params(last)
    np.testing.assert_array_equal(mixed["line"]["w"], last.average["line/w"])
    np.testing.assert_array_equal(mixed["idle"], last.params["idle"])
    half = start_average({"x": jnp.ones(3, jnp.bfloat16)})
    assert half["x"].dtype == jnp.float32
    moved = follow(half, {"x": jnp.zeros(3, jnp.bfloat16)}, jnp.int32(0), 0.999)
    np.testing.assert_allclose(moved["x"], 0.1, rtol=1e-6)


def test_a_step_that_is_not_finite_leaves_the_average():
    states = _run([_batch(0), _batch(1, x0=1e3)])
    for part in ("params", "average"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(states[2], part), getattr(states[1], part)
        )


def test_no_average_is_no_leaf():
    states = _run([_batch(0)], decay=0.0)
    assert states[-1].average is None and averaged_params(states[-1]) is states[-1].params


def test_averages_lie_beside_their_parameters():
    mesh = make_mesh(devices=jax.devices()[:1])
    params = {"text": {"blocks": {"mlp": {"c_fc": {"kernel": np.zeros((2, 4, 8))}}}}}
    name = "text/blocks/mlp/c_fc/kernel"
    state = TrainState(np.zeros(()), params, (), {name: np.zeros((2, 4, 8), np.float32)})
    placed = state_sharding(state, TRANSFORMER_RULES, mesh)
    assert placed.average[name].spec == PartitionSpec(None, "fsdp", "tensor")


def test_decay_is_judged():
    assert check_decay(0.0) == 0.0 and check_decay(0.999) == 0.999
    for wrong in (1.0, -0.1, 2.0):
        with pytest.raises(UserError, match=r"average\.decay"):
            check_decay(wrong)


def _config(steps, decay):
    config = get_config("tiny")
    config.steps, config.average.decay = steps, decay
    config.optim.update({"schedule": "constant", "warmup": 0})
    return config


@pytest.mark.slow
def test_resumed_equals_straight_through_and_the_export_is_the_average(tmp_path):
    config = _config(3, 0.9)
    straight = train(config, tmp_path / "straight", show=False)
    train(_config(1, 0.9), tmp_path / "stopped", show=False)
    resumed = train(config, tmp_path / "stopped", show=False)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed), jax.device_get(straight))
    export_state(config, tmp_path / "model", resumed, dtype="float32")
    loaded = load_folder(tmp_path / "model")
    assert "decay 0.9" in loaded.provenance["weights"]
    name = "text/token_embedding"
    got = flat_names(loaded.params)[name]
    np.testing.assert_array_equal(got, resumed.average[name])
    assert not np.array_equal(got, flat_names(resumed.params)[name])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Old:
    """The state as it was before there were averages."""

    step: jax.Array
    params: dict
    opt_state: dict

    def fields(self):
        return self


class _Nowhere:
    """A position in no data."""

    def get_state(self):
        return {"next": 0}

    def set_state(self, state):
        assert state == {"next": 0}


def test_checkpoints_without_averages_still_load(tmp_path):
    data: Any = _Nowhere()
    params, moments = {"a": {"b": jnp.arange(3.0)}}, {"a/b": jnp.ones(3)}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, cast(Any, _Old(jnp.int32(1), params, moments)), data, {})
    like = jax.eval_shape(lambda: TrainState(jnp.int32(1), params, moments))
    found = checkpoints.restore(1, like, data, {})
    checkpoints.close()
    want = TrainState(jnp.int32(1), params, moments)
    assert jax.tree.structure(found) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, found, want)

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from openseg_jax.errors import UserError
from openseg_jax.train.optim import trainable_names
from openseg_jax.train.state import flat_names, nested, split_params
from openseg_jax.train.step import count_params, init_state, make_train_step
from tests.train.toy import Line

KEY = jax.random.key(0)


def _batch(seed=0, rows=8):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3)).astype(np.float32)
    return {"x": jnp.asarray(x), "y": jnp.asarray(x @ np.float32([1, -2, 3]) + 2)}


def _run(task, batches, accumulate=1):
    params, frozen = task.init(KEY, None)
    trained = trainable_names(task.trainable, flat_names(params))
    tx = optax.sgd(0.1)
    step = make_train_step(task, tx, trained, accumulate=accumulate)
    state, seen = init_state(params, tx, trained), []
    for batch in batches:
        state, metrics = step(state, frozen, batch, KEY)
        seen.append(metrics)
    return state, seen


def test_names_round_trip():
    params = {"a": {"b": {"c": 1}, "d": 2}, "e": 3}
    assert flat_names(params) == {"a/b/c": 1, "a/d": 2, "e": 3}
    assert nested(flat_names(params)) == params
    assert split_params(params, frozenset(["e"])) == ({"e": 3}, {"a/b/c": 1, "a/d": 2})
    assert count_params({"a": {"b": np.zeros((2, 3))}, "c": np.zeros(())}) == 7


def test_one_step_is_the_gradient_by_hand():
    batch = _batch()
    state, (metrics,) = _run(Line(), [batch])
    x, y = np.asarray(batch["x"], np.float64), np.asarray(batch["y"], np.float64)
    np.testing.assert_allclose(state.params["line"]["w"], 0.2 * x.T @ y / len(y), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"][0], (y**2).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["error"][0], np.abs(y).sum(), rtol=1e-6)
    assert int(state.step) == 1 and float(metrics["finite"][0]) == 1.0


def test_accumulation_equals_the_whole_batch_where_the_loss_is_a_mean():
    batches = [_batch(0), _batch(1)]
    whole, seen = _run(Line(), batches)
    parts, seen_parts = _run(Line(), batches, accumulate=4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), parts, whole)
    for a, b in zip(seen_parts, seen, strict=True):
        for name in ("loss", "error"):
            np.testing.assert_allclose(a[name][0] / a[name][1], b[name][0] / b[name][1], rtol=1e-5)
        np.testing.assert_allclose(a["grad_norm"][0], b["grad_norm"][0], rtol=1e-5)


def test_accumulation_must_divide():
    with pytest.raises(UserError, match="accumulate"):
        _run(Line(), [_batch()], accumulate=3)


def test_frozen_parameters_stay_and_have_no_moments():
    task = Line(trainable=(("line/w", True), (".*", False)))
    state, _ = _run(task, [_batch()])
    assert float(state.params["line"]["b"]) == 0.0 and float(state.params["line"]["w"][0]) != 0.0
    tx = optax.adam(0.1)
    params, _ = task.init(KEY, None)
    moments = init_state(params, tx, frozenset(["line/w"])).opt_state
    assert sum(x.size for x in jax.tree.leaves(moments)) == 1 + 2 * 3  # count, two moments of w


def test_the_task_constrains_after_the_update():
    task = Line()
    task.constrain = lambda params: params
    free, _ = _run(task, [_batch()] * 9)
    bound, _ = _run(Line(), [_batch()] * 9)
    assert float(bound.params["line"]["b"]) <= 0.5 < float(free.params["line"]["b"])


def test_a_step_that_is_not_finite_changes_nothing():
    good, bad = _batch(), _batch()
    bad["x"] = bad["x"].at[0, 0].set(1e3)
    state, seen = _run(Line(nan_at=100.0), [good, bad])
    want, _ = _run(Line(nan_at=100.0), [good])
    assert int(state.step) == -2  # the second step's
    jax.tree.map(np.testing.assert_array_equal, state.fields() | {"step": want.step}, want.fields())
    assert [float(m["finite"][0]) for m in seen] == [1.0, 0.0]
    # nor does any later one, so that the state is still the one that failed
    later, seen = _run(Line(nan_at=100.0), [good, bad, good, good])
    jax.tree.map(np.testing.assert_array_equal, later, state)
    assert [float(m["finite"][0]) for m in seen] == [1.0, 0.0, 0.0, 0.0]

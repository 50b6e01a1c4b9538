import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.train.optim import make_adamw, make_schedule, match_rules, trainable_names

NAMES = ("visual/ln/scale", "visual/proj/kernel", "logit_scale")


def test_first_matching_rule_decides():
    rules = ((r".*/kernel", 0.1), (r"visual/.*", 0.2), (r".*", 0.0))
    assert match_rules(rules, NAMES, "decay") == dict(zip(NAMES, (0.2, 0.1, 0.0), strict=True))


def test_a_rule_must_match_the_whole_name():
    with pytest.raises(UserError, match="logit_scale"):
        match_rules(((r"visual/.*", 1), (r"logit", 2)), NAMES, "decay")


def test_unmatched_names_are_listed():
    with pytest.raises(UserError, match=r"decay: .*visual/ln/scale, visual/proj/kernel"):
        match_rules((("logit_scale", 1),), NAMES, "decay")


def test_broken_expression_is_named():
    with pytest.raises(UserError, match=r"\(kernel"):
        match_rules((("(kernel", 1),), NAMES, "decay")


def test_something_must_train():
    assert trainable_names(((r".*/kernel", True), (".*", False)), NAMES) == {"visual/proj/kernel"}
    with pytest.raises(UserError, match="trainable"):
        trainable_names(((".*", False),), NAMES)


def test_cosine_with_warmup_matches_the_formula():
    schedule = make_schedule("cosine", peak=2.0, steps=110, warmup=10, end=0.1)
    got = [float(schedule(i)) for i in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(got, [0.0, 1.0, 2.0, 0.2 + 1.8 * 0.5, 0.2], rtol=1e-6)


@pytest.mark.parametrize("kind, end", [("constant", 1.0), ("linear", 0.5)])
def test_other_schedules(kind, end):
    schedule = make_schedule(kind, peak=1.0, steps=10, end=0.5)
    np.testing.assert_allclose([float(schedule(0)), float(schedule(10))], [1.0, end], rtol=1e-6)


def test_schedule_errors():
    with pytest.raises(UserError, match="cosine"):
        make_schedule("cosin", peak=1.0, steps=10)
    with pytest.raises(UserError, match="warmup"):
        make_schedule("cosine", peak=1.0, steps=10, warmup=10)


def test_adamw_matches_float64():
    rng = np.random.default_rng(0)
    value = {"a/kernel": rng.normal(size=4), "a/bias": rng.normal(size=4)}
    decay, share = {"a/kernel": 0.1, "a/bias": 0.0}, {"a/kernel": 1.0, "a/bias": 0.5}
    tx = make_adamw(
        value,
        lambda step: 0.01,
        clip=1.0,
        weight_decay=((".*kernel", 0.1), (".*", 0.0)),
        multiplier=((".*bias", 0.5), (".*", 1.0)),
    )
    params = {n: jnp.asarray(x, jnp.float32) for n, x in value.items()}
    state = tx.init(params)
    m, v = ({n: np.zeros(4) for n in value} for _ in range(2))
    for step in range(1, 4):
        grads = {n: rng.normal(size=4) for n in value}
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        updates, state = tx.update(
            {n: jnp.asarray(g, jnp.float32) for n, g in grads.items()}, state, params
        )
        params = {n: p + updates[n] for n, p in params.items()}
        for n, g in grads.items():
            g = g / max(norm, 1.0)
            m[n], v[n] = 0.9 * m[n] + 0.1 * g, 0.98 * v[n] + 0.02 * g**2
            direction = (m[n] / (1 - 0.9**step)) / (np.sqrt(v[n] / (1 - 0.98**step)) + 1e-8)
            value[n] = value[n] - 0.01 * share[n] * (direction + decay[n] * value[n])
    for n in value:
        np.testing.assert_allclose(params[n], value[n], rtol=2e-5, atol=1e-6)
    # the wrong variant: decay folded into the gradient would be scaled away by Adam
    assert np.abs(value["a/kernel"]).max() > 0.1

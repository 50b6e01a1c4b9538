import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from openseg_jax.configs import miniature_clip, miniature_segclip

from openseg_jax.errors import UserError
from openseg_jax.inputs.pipeline import batch_spec
from openseg_jax.train import setup
from openseg_jax.train.layer_rates import layer_rates
from openseg_jax.train.optim import make_adamw
from openseg_jax.train.program import make_program
from openseg_jax.train.sharding import make_mesh
from openseg_jax.train.state import flat_names

DECAY, RATE = 0.5, 0.01


def _tree(seed=0):
    """Two towers of three and two blocks, flat."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    tree = {"logit_scale": draw(), "visual/conv1/kernel": draw(2, 2, 3, 4)}
    tree |= {"visual/ln_pre/scale": draw(4), "visual/proj/kernel": draw(4, 4)}
    tree |= {"visual/positional_embedding": draw(5, 4), "text/token_embedding": draw(7, 4)}
    for tower, depth in (("visual", 3), ("text", 2)):
        tree[f"{tower}/blocks/mlp/c_fc/kernel"] = draw(depth, 4, 8)
        tree[f"{tower}/blocks/ln_1/scale"] = draw(depth, 4)
    return tree


# Jitted as a whole: compiling many small operations is what these tests would spend time on.
@functools.partial(jax.jit, static_argnames=("rate", "rules"))
def _updates(params, grads, shares, *, rate=RATE, rules=((".*", 1.0),)):
    return _update(params, grads, rate, layers=shares, multiplier=rules)


def _update(params, grads, rate, **rules):
    tx = make_adamw(params, lambda step: rate, clip=None, **rules)
    updates, _ = tx.update(grads, tx.init(params), params)
    return updates


@functools.partial(jax.jit, static_argnames="exponent")
def _by_hand(params, grads, exponent):
    """One optimiser for each layer, with that layer's own rate and nothing stacked."""
    out = {}
    for name, leaf in params.items():
        tower = name.split("/")[0]
        depth = {"visual": 3, "text": 2}.get(tower, 0)
        if "/blocks/" in name:
            rows = []
            for i in range(depth):
                rate = RATE * DECAY ** exponent(depth, i)
                rows.append(_update({"x": leaf[i]}, {"x": grads[name][i]}, rate)["x"])
            out[name] = jnp.stack(rows)
        else:
            below = any(word in name for word in ("embedding", "conv1", "ln_pre"))
            rate = RATE * (DECAY ** (depth + 1) if below else 1.0)
            out[name] = _update({"x": leaf}, {"x": grads[name]}, rate)["x"]
    return out


def test_stacked_rates_equal_a_loop_over_layers():
    params, grads = _tree(), _tree(1)
    got = _updates(params, grads, layer_rates(params, DECAY))
    want = _by_hand(params, grads, lambda depth, i: depth - i)
    for name in params:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, err_msg=name)
    # the wrong variant: the last block counted as the head
    wrong = _by_hand(params, grads, lambda depth, i: depth - 1 - i)
    name = "visual/blocks/ln_1/scale"
    assert np.abs(got[name] / wrong[name] - 1).min() > 0.4


def test_shares_multiply_with_rules():
    params, grads = _tree(), _tree(1)
    rules = (("visual/.*", 0.1), (".*", 1.0))
    plain = _updates(params, grads, layer_rates(params, DECAY))
    both = _updates(params, grads, layer_rates(params, DECAY), rules=rules)
    for name in params:
        share = 0.1 if name.startswith("visual/") else 1.0
        np.testing.assert_allclose(both[name], share * plain[name], rtol=1e-5, err_msg=name)


def test_segclip_counts_its_two_stacks_as_one_tower():
    config = miniature_segclip.get_config("tiny")
    config.model.vision.depth, config.task.segclip.first_blocks = 3, 2
    built = setup.build(config)
    spec = batch_spec(built.source, config.batch_size)
    params = jax.eval_shape(lambda key: built.task.init(key, spec)[0], jax.random.key(0))
    shares = layer_rates(flat_names(params), 0.5)
    np.testing.assert_allclose(np.ravel(shares["visual/blocks/ln_1/scale"]), [0.125, 0.25])
    np.testing.assert_allclose(np.ravel(shares["visual/blocks_after/ln_1/scale"]), [0.5])
    np.testing.assert_allclose(np.ravel(shares["text/blocks/ln_1/scale"]), [0.5])
    assert shares["visual/conv1/kernel"] == shares["visual/class_embedding"] == 0.0625
    assert shares["text/token_embedding"] == 0.25
    fresh = [n for n in shares if n.startswith(("decoder/", "visual/group/", "visual/blocks_rec"))]
    assert fresh and all(shares[name] == 1.0 for name in fresh)


def test_one_means_none_and_other_values_are_judged():
    params = _tree()
    assert set(layer_rates(params, 1.0).values()) == {1.0}
    for wrong in (0.0, -1.0, 1.5):
        with pytest.raises(UserError, match=r"optim\.layer_decay"):
            layer_rates(params, wrong)
    with pytest.raises(UserError, match="tower"):
        layer_rates({"generator/pixel/kernel": np.zeros(3)}, 0.5)


def test_the_config_reaches_the_optimiser():
    config = miniature_clip.get_config("tiny")
    config.optim.update({"layer_decay": 0.5, "schedule": "constant", "warmup": 0, "clip": None})
    config.optim.multiplier = ((r"text/.*", 0.1), (".*", 1.0))
    config.optim.weight_decay = ((".*", 0.0),)
    built = setup.build(config)
    params = jax.eval_shape(lambda key: built.task.init(key, {})[0], jax.random.key(0))
    program = make_program(config, built.task, make_mesh(devices=jax.devices()[:1]), params)
    ones = {name: jnp.ones(leaf.shape) for name, leaf in flat_names(params).items()}
    updates = jax.jit(lambda p: program.tx.update(p, program.tx.init(p), p)[0])(ones)
    # Adam's first step is the rate itself; the towers have one block each.
    shares = {
        "visual/ln_post/bias": 1.0,
        "visual/blocks/ln_1/bias": 0.5,
        "text/blocks/ln_1/bias": 0.05,
        "text/token_embedding": 0.025,
    }
    for name, share in shares.items():
        want = -share * config.optim.learning_rate
        np.testing.assert_allclose(updates[name], want, rtol=1e-4, err_msg=name)

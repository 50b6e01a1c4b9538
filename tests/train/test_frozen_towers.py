"""Towers that `task.trainable` locks (LiT): they stay, cost no gradient and have no moments."""

import functools
from typing import Any

import jax
import numpy as np
import pytest
from openseg_jax.configs.miniature_clip import get_config

from openseg_jax.inputs.pipeline import batch_spec, batches
from openseg_jax.models.clip import CLIP
from openseg_jax.train import setup
from openseg_jax.train.program import make_program
from openseg_jax.train.sharding import make_mesh, put_batch
from openseg_jax.train.state import flat_names

pytestmark = pytest.mark.usefixtures("compile_once")

KEY = jax.random.key(0)


@functools.cache
def _program(frozen: str) -> Any:
    """The experiment and its program with one tower locked; "" locks none."""
    config = get_config("tiny")
    config.task.trainable = ((rf"{frozen}/.*", False), (".*", True)) if frozen else ((".*", True),)
    config.optim.update({"schedule": "constant", "warmup": 0})
    config.average.decay = 0.9
    built = setup.build(config)
    shapes = jax.eval_shape(lambda key: built.task.init(key, {})[0], KEY)
    program = make_program(config, built.task, make_mesh(devices=jax.devices()[:1]), shapes)
    return config, built, program, shapes


def _flops(lowered):
    return lowered.cost_analysis()["flops"]


def _step_flops(frozen):
    config, built, program, _ = _program(frozen)
    batch = dict(batch_spec(built.source, config.batch_size))
    return _flops(program.lower({}, batch, jax.eval_shape(lambda: KEY)))


def _forward_flops(tower):
    """What one pass of a tower costs, patch means included where the task asks for them."""
    config, built, _, shapes = _program("")
    task: Any = built.task
    batch = batch_spec(built.source, config.batch_size)

    def forward(params, batch):
        if tower == "text":
            return task.clip.apply({"params": params}, batch["ids"], method=CLIP.encode_text)
        pixels = task.pixels(batch["image"])
        return task.clip.apply({"params": params}, pixels, method=CLIP.encode_image)

    return _flops(jax.jit(forward).lower(shapes, dict(batch)))


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["visual", "text"])
def test_a_locked_tower_costs_its_forward_pass_alone(tower):
    saved = (_step_flops("") - _step_flops(tower)) / _forward_flops(tower)
    # A backward pass costs two forward passes; the tower's input needs no gradient either way, and
    # the optimiser and the average have less to do, which a tiny tower feels.
    assert 1.6 < saved < 3.0


@pytest.mark.parametrize("tower", ["visual", "text"])
def test_a_locked_tower_has_no_moments_and_no_average(tower):
    _, _, program, shapes = _program(tower)
    moments = [leaf for leaf in jax.tree.leaves(program.shapes.opt_state) if leaf.shape]
    names = {n: x for n, x in flat_names(shapes).items() if not n.startswith(f"{tower}/")}
    assert set(program.shapes.average) == program.trained == set(names)
    # Two of each trained parameter; those of the temperature have no axes.
    sizes = sum(x.size for x in names.values() if x.shape)
    assert sum(x.size for x in moments) == 2 * sizes


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["visual", "text"])
def test_a_locked_tower_stays_bit_for_bit_and_the_other_learns(tower):
    config, built, program, _ = _program(tower)
    params, frozen = built.task.init(KEY, {})
    before = {name: np.array(leaf) for name, leaf in flat_names(params).items()}
    state = program.start(params)
    data = batches(built.source, config.batch_size, shuffle=False, threads=1)
    for _ in range(2):
        state, metrics = program.step(state, frozen, put_batch(next(data), program.mesh), KEY)
    assert float(metrics["finite"][0]) == 1.0
    moved = {n for n, x in flat_names(state.params).items() if not np.array_equal(x, before[n])}
    learning = {name for name in before if not name.startswith(f"{tower}/")}
    # A key's bias shifts all of a row's logits alike: its gradient is rounding, or nothing.
    assert learning - moved <= {name for name in before if name.endswith("/key/bias")}
    assert moved <= learning

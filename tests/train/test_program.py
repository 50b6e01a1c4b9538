import jax
import jax.numpy as jnp
import numpy as np
from openseg_jax.configs.miniature_clip import get_config

from openseg_jax.inputs.pipeline import batch_spec
from openseg_jax.train import setup
from openseg_jax.train.program import make_program
from openseg_jax.train.sharding import make_mesh
from openseg_jax.train.sharding_report import state_bytes
from openseg_jax.train.step import make_train_step
from tests.train.toy_setup import Ballast

BATCH = {"x": np.zeros((8, 3), np.float32), "y": np.zeros(8, np.float32)}


def test_the_state_is_given_away_and_its_memory_used_again():
    task, mesh = Ballast(), make_mesh(devices=jax.devices()[:1])
    config = get_config("tiny")
    config.optim.weight_decay = ((".*", 0.0),)
    params, frozen = task.init(jax.random.key(0), BATCH)
    program = make_program(config, task, mesh, params)
    compiled = program.lower(frozen, BATCH, jax.random.key(0)).compile()
    _, device = state_bytes(program)
    assert compiled.memory_analysis().alias_size_in_bytes == device > 3 * 8 * 4 * 256 * 1024
    state = program.start(params)
    old = state.params["ballast0"]
    state, _ = program.step(state, frozen, BATCH, jax.random.key(0))
    assert old.is_deleted() and int(state.step) == 1
    # the wrong variant: a step that keeps its argument needs memory for two states
    kept = jax.jit(make_train_step(task, program.tx, program.trained))
    kept = kept.lower(program.like, frozen, BATCH, jax.random.key(0)).compile()
    assert kept.memory_analysis().alias_size_in_bytes == 0


def test_bfloat16_is_of_the_computation_and_never_of_the_state():
    config = get_config("tiny")
    config.dtype = "bfloat16"
    mesh = make_mesh(devices=jax.devices()[:1])
    built = setup.build(config, mesh)
    batch = batch_spec(built.source, config.batch_size)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, frozen = jax.eval_shape(lambda k: built.task.init(k, batch), key)
    program = make_program(config, built.task, mesh, params)
    traced = program.step.trace(program.like, frozen, batch, key)
    state, metrics = traced.out_info
    floats = {x.dtype for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)}
    assert floats == {jnp.dtype(jnp.float32)}
    assert metrics["loss"][0].dtype == jnp.float32
    assert "bf16[" in str(traced.jaxpr), "nothing is computed in bfloat16"

import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from openseg_jax.errors import UserError
from openseg_jax.train.sharding import TRANSFORMER_RULES, make_mesh, spec_for, state_sharding
from openseg_jax.train.state import TrainState


class _Mesh:
    """Stands for a mesh of 8 devices, of which this machine has one."""

    shape = types.MappingProxyType({"data": 2, "fsdp": 2, "tensor": 2})


def test_spec_takes_what_divides():
    assert spec_for("fsdp", (3, 6, 4), _Mesh) == PartitionSpec(None, "fsdp")
    assert spec_for("fsdp", (3, 5), _Mesh) == PartitionSpec()
    assert spec_for(None, (4, 4), _Mesh) == PartitionSpec()
    assert spec_for((None, "fsdp", "tensor"), (6, 4, 3), _Mesh) == PartitionSpec(None, "fsdp", None)


def test_spec_wants_one_entry_an_axis():
    with pytest.raises(UserError, match="sharding"):
        spec_for(("fsdp",), (4, 4), _Mesh)


def test_mesh_must_use_all_devices():
    assert dict(make_mesh(devices=jax.devices()[:1]).shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    with pytest.raises(UserError, match="mesh: expected"):
        make_mesh(data=3, fsdp=5)


def test_moments_lie_beside_their_parameters():
    mesh = make_mesh(devices=jax.devices()[:1])
    params = {"text": {"blocks": {"mlp": {"c_fc": {"kernel": np.zeros((2, 4, 8))}}}}}
    name = "text/blocks/mlp/c_fc/kernel"
    state = TrainState(np.zeros(()), params, ({name: np.zeros((2, 4, 8))}, np.zeros(())))
    placed = state_sharding(state, TRANSFORMER_RULES, mesh)
    want = PartitionSpec(None, "fsdp", "tensor")
    assert placed.params["text"]["blocks"]["mlp"]["c_fc"]["kernel"].spec == want
    assert placed.opt_state[0][name].spec == want
    assert placed.opt_state[1].spec == PartitionSpec()


_EIGHT = """
import jax, numpy as np, optax
from openseg_jax.configs.miniature_clip import get_config
from openseg_jax.inputs.pipeline import batches
from openseg_jax.train import setup
from openseg_jax.train.optim import trainable_names
from openseg_jax.train.sharding import *
from openseg_jax.train.sharding import TRANSFORMER_RULES
from openseg_jax.train.state import flat_names
from openseg_jax.train.step import init_state, make_train_step

built = setup.build(get_config("tiny"))
params, frozen = built.task.init(jax.random.key(0), {})
trained, tx = trainable_names(built.task.trainable, flat_names(params)), optax.sgd(0.1)

def run(mesh):
    start = init_state(params, tx, trained)
    placed = state_sharding(start, TRANSFORMER_RULES, mesh)
    state = jax.device_put(start, placed)
    step = jax.jit(make_train_step(built.task, tx, trained), out_shardings=(placed, None))
    data = batches(built.source, 8, shuffle=False, threads=1)
    for _ in range(2):
        state, metrics = step(state, frozen, put_batch(next(data), mesh), jax.random.key(1))
    return state

one = run(make_mesh(devices=jax.devices()[:1]))
eight = run(make_mesh(data=2, fsdp=2, tensor=2))
kernel = eight.params["visual"]["blocks"]["mlp"]["c_fc"]["kernel"]
assert len({s.device for s in kernel.addressable_shards}) == 8
assert kernel.addressable_shards[0].data.shape == (1, 16, 32), "not sharded"
for (name, a), b in zip(flat_names(eight.params).items(), flat_names(one.params).values()):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)
print("equal")
"""


@pytest.mark.slow
def test_eight_devices_learn_what_one_learns():
    flags = "--xla_force_host_platform_device_count=8"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", _EIGHT], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "equal"

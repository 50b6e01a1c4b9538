import json
import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from openseg_jax.errors import UserError
from openseg_jax.train.sharding import (
    TRANSFORMER_RULES,
    make_mesh,
    put_batch,
    put_whole,
    rows_here,
    spec_for,
    state_sharding,
    to_host,
)
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


def test_one_axis_takes_what_is_left():
    many = [types.SimpleNamespace(id=i) for i in range(8)]
    with pytest.raises(UserError, match=r"= 8 devices, got -1×-1×2; change the mesh or use -1 for"):
        make_mesh(-1, -1, 2, devices=many)
    assert dict(make_mesh(1, -1, 1, devices=jax.devices()[:1]).shape)["fsdp"] == 1


def test_rows_and_batches_of_one_process():
    mesh = make_mesh(devices=jax.devices()[:1])
    assert rows_here(mesh, 3).tolist() == [0, 1, 2]
    batch = {"x": np.arange(6, dtype=np.float32).reshape(3, 2), "n": np.arange(3, dtype=np.int32)}
    for placed in (put_batch(batch, mesh), put_batch(batch, mesh, 3)):
        jax.tree.map(np.testing.assert_array_equal, to_host(placed), batch)
    whole = put_whole(batch, jax.sharding.NamedSharding(mesh, PartitionSpec()))
    jax.tree.map(np.testing.assert_array_equal, to_host(whole), batch)


def test_a_batch_must_divide_among_the_devices():
    with pytest.raises(UserError, match="batch_size: expected a positive multiple of 4"):
        rows_here(_Mesh, 6)


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


_MESHES = """
import json
import jax, jax.numpy as jnp
from openseg_jax.configs.miniature_clip import get_config
from openseg_jax.inputs.pipeline import batch_spec, batches
from openseg_jax.train import setup
from openseg_jax.train.program import make_program
from openseg_jax.train.sharding import make_mesh, put_batch, put_whole

STEPS, found = 4, []

def run(shape, dtype):
    config = get_config("tiny")
    config.steps, config.dtype = STEPS, dtype
    mesh = make_mesh(*shape, devices=jax.devices()[: shape[0] * shape[1] * shape[2]])
    built = setup.build(config, mesh)
    params, frozen = built.task.init(jax.random.key(0), batch_spec(built.source, 8))
    program = make_program(config, built.task, mesh, params)
    state, frozen = program.start(params), put_whole(frozen, program.everywhere)
    kernel = state.params["visual"]["blocks"]["mlp"]["c_fc"]["kernel"]
    data = batches(built.source, 8, shuffle=False, threads=1)
    key, losses = jax.random.key(1), []
    part = kernel.addressable_shards[0].data.shape
    for _ in range(STEPS):
        state, metrics = program.step(state, frozen, put_batch(next(data), mesh), key)
        losses.append(float(metrics["loss"][0]))
    data.close()
    floats = {str(x.dtype) for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)}
    return [shape, losses, part, sorted(floats)]

for shape in %s:
    found.append(run(shape, "float32"))
found.append(run((2, 2, 2), "bfloat16"))
print(json.dumps(found))
"""
# data, fsdp, tensor: 1, 2, 4 and 8 devices, each axis alone and with others.
_SHAPES = [
    (1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (4, 1, 1), (1, 2, 2), (8, 1, 1), (1, 8, 1),
    (4, 1, 2), (2, 2, 2),
]  # fmt: skip


@pytest.mark.slow
def test_every_mesh_learns_what_one_device_learns():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", _MESHES % _SHAPES], env=env, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    *runs, rough = json.loads(done.stdout.splitlines()[-1])
    want = runs[0][1]
    assert len(set(want)) == len(want), "it does not learn"
    for shape, losses, part, floats in runs:
        np.testing.assert_allclose(losses, want, rtol=1e-5, err_msg=str(shape))
        _, fsdp, tensor = shape
        assert part == [1, 32 // fsdp, 64 // tensor], "not sharded"
        assert floats == ["float32"]
    np.testing.assert_allclose(rough[1], want, rtol=3e-2)
    assert rough[1] != want and rough[3] == ["float32"]

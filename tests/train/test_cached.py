import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from openseg_jax.errors import UserError
from openseg_jax.tasks.base import TwoStage
from openseg_jax.train.cached import cut_batch, join_parts
from openseg_jax.train.sharding import make_mesh
from tests.train.cached_cases import OneStage, difference, make_task, start, step
from tests.train.toy import Line


@functools.cache
def whole():
    task = make_task("softmax")
    params = start(task)
    return task, params, step(task, params)[0]


@pytest.mark.slow
def test_accumulated_step_is_the_step_of_the_whole_batch():
    task, params, want = whole()
    got, _ = step(task, params, accumulate=4)
    found = difference(got, want, params)
    assert found["params"] < 1e-5 and found["metrics"] < 1e-5, found


@pytest.mark.slow
def test_averaged_parts_are_another_step():
    task, params, want = whole()
    assert isinstance(task, TwoStage) and not isinstance(OneStage(task), TwoStage)
    got, _ = step(OneStage(task), params, accumulate=4)
    found = difference(got, want, params)
    assert found["params"] > 0.1 and found["metrics"] > 0.1, found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sigmoid", "softmax"])
def test_eight_devices_accumulate_around_the_ring(name):
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.cached_cases", name],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)[name]
    assert found["params"] < 1e-5 and found["metrics"] < 1e-5, found
    # Rows of parts and embeddings stay where they are; only texts and their sums travel.
    assert found["exchanged"] == []


def test_parts_take_every_nth_row_and_join_again():
    x = {"a": jnp.arange(12).reshape(12, 1), "b": jnp.arange(12)}
    parts = cut_batch(x, 3)
    np.testing.assert_array_equal(parts["b"], [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]])
    jax.tree.map(np.testing.assert_array_equal, join_parts(parts), x)


def test_parts_must_divide_what_a_device_holds():
    with pytest.raises(UserError, match="accumulate: expected a divisor of the batch of 12, got 5"):
        cut_batch({"x": jnp.zeros(12)}, 5)
    placed = NamedSharding(make_mesh(devices=jax.devices()[:1]), PartitionSpec(("data", "fsdp")))
    assert cut_batch({"x": jnp.zeros(12)}, 4, placed)["x"].shape == (4, 3)
    assert not isinstance(Line(), TwoStage)

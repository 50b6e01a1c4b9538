"""Rows stay where they came, and nothing else changes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from openseg_jax.ops.rows import keep_rows, rows_on


def test_outside_nothing_happens():
    x = {"a": jnp.ones((4, 2))}
    assert keep_rows(x) is x


@pytest.mark.parametrize("axes", [(), ("data",), ("data", "fsdp")])
def test_values_stay(axes):
    mesh = jax.make_mesh((1, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    with rows_on(mesh, axes):
        found = jax.jit(lambda x: keep_rows({"a": x, "b": x.sum()}))(jnp.arange(6.0).reshape(3, 2))
    assert np.array_equal(found["a"], np.arange(6.0).reshape(3, 2))
    assert found["b"] == 15.0

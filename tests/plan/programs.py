"""Small compiled programs that the tests of `plan` share."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def mesh():
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:8])


@functools.cache
def scan_of_products(rounds: int, inner: int, n: int = 64) -> tuple[str, object]:
    """A loop of loops of products of n×n matrices: text and jaxpr."""

    def body(x, _):
        def again(x, _):
            return jnp.tanh(x @ x), None

        return jax.lax.scan(again, x, None, length=inner)[0], None

    def run(x):
        return jax.lax.scan(body, x, None, length=rounds)[0]

    traced = jax.jit(run).trace(jax.ShapeDtypeStruct((n, n), jnp.float32))
    return traced.lower().compile().as_text(), traced.jaxpr


@functools.cache
def collectives() -> dict[str, str]:
    """The programs of `collective` by kind, compiled where there are eight devices."""
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-m", "tests.plan.programs"], capture_output=True, text=True, check=False,
        env={**os.environ, "XLA_FLAGS": flags},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def collective(kind: str, rows: int = 1024) -> str:
    """A program of 8 devices that does one exchange of Float[rows] a device."""
    where = mesh()

    def run(x):
        if kind == "all-reduce":
            return jax.lax.psum(x, "data")
        if kind == "all-gather":
            return jax.lax.all_gather(x, "data")
        if kind == "reduce-scatter":
            return jax.lax.psum_scatter(x, "data", tiled=True)
        if kind == "all-to-all":
            return jax.lax.all_to_all(x, "data", 0, 0, tiled=True)

        def turn(x, _):
            return jax.lax.ppermute(x, "data", [(i, (i + 1) % 8) for i in range(8)]), None

        return jax.lax.scan(turn, x, None, length=7)[0]

    spread = PartitionSpec("data")
    mapped = jax.shard_map(
        run, mesh=where, in_specs=spread, check_vma=False,
        out_specs=PartitionSpec() if kind in ("all-reduce", "all-gather") else spread,
    )  # fmt: skip
    shape = jax.ShapeDtypeStruct((8 * rows,), jnp.float32, sharding=NamedSharding(where, spread))
    return jax.jit(mapped).lower(shape).compile().as_text()


if __name__ == "__main__":
    kinds = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
    print(json.dumps({kind: collective(kind) for kind in kinds}))

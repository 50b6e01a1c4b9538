"""Compiles one program for a machine and measures it, or tells that it does not fit."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from openseg_jax.errors import UserError, expected
from openseg_jax.plan.chips import GIB
from openseg_jax.plan.cost import Cost, cost_of
from openseg_jax.plan.hlo import parse
from openseg_jax.plan.topology import Machine
from openseg_jax.train.flops import count_flops
from openseg_jax.train.sharding import make_mesh

# With the least effort libtpu compiles about eight times faster. The program is the same; its
# schedule is plainer. Memory came out 4 to 5 % lower than with full effort (ViT-B/16, ViT-L/14).
# Newer versions of JAX know levels only: O0 is the least.
QUICK: dict[str, Any] = (
    {"exec_time_optimization_effort": -1.0}
    if hasattr(jax.config, "jax_exec_time_optimization_effort")
    else {"optimization_level": 9}
)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
        arguments: state, frozen parameters and the batch. outputs: of the step. aliased: outputs
            that lie where an argument lay. temps: activations and all else. code: the program.
    """

    arguments: int
    outputs: int
    temps: int
    aliased: int
    code: int

    @property
    def total(self) -> int:
        """What the device must hold at once."""
        return self.arguments + self.temps + self.code + self.outputs - self.aliased


@dataclasses.dataclass(frozen=True)
class Measured:
    """A program that was compiled, or refused.

    Attributes:
        machine: for which. state: bytes a device of what does not grow with the batch (state and
            frozen parameters), from the placements. batch: bytes a device of the batch.
        memory: None where the compiler refused the program.
        needed: bytes a device, the compiler's own number where it refused.
        limit: bytes a device that may be taken.
        message: the compiler's complaint.
        cost: counted in the compiled program; None where it was refused.
        traced: FLOPs of all devices together, counted before compiling.
        seconds: that tracing and compiling took.
        estimate: compiled for stand-ins of the machine's devices, so temps are an estimate.
    """

    machine: Machine
    state: int
    batch: int
    memory: Memory | None
    needed: int
    limit: int
    message: str
    cost: Cost | None
    traced: float
    seconds: float
    estimate: bool

    @property
    def fits(self) -> bool:
        """Whether it can run."""
        return self.memory is not None and self.needed <= self.limit


def devices_of(machine: Machine) -> list[Any]:
    """Lists devices to compile for: described ones of a TPU, stand-ins for GPUs.

    Raises:
        UserError: without libtpu, for a slice that it does not know, or too few stand-ins.
    """
    if machine.chip.kind == "gpu":
        devices = jax.devices("cpu")
        if len(devices) < machine.devices:
            raise expected(
                "XLA_FLAGS", f"--xla_force_host_platform_device_count={machine.devices}",
                f"{len(devices)} devices", "run `openseg plan` as its own process",
            )  # fmt: skip
        return devices[: machine.devices]
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if machine.chip.name == "v4":
        # Both cores of a chip as one device, as on the machine itself.
        options["chip_config_name"] = "megacore"
    if machine.chips < 4:
        options["chips_per_host_bounds"] = [*machine.shape, 1, 1][:3]
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=machine.full, **options)
    except Exception as error:
        if "INVALID_ARGUMENT" in str(error):
            raise UserError(
                f"--topology: libtpu knows no slice {machine.full!r}; "
                "`openseg plan --topologies` lists those with names"
            ) from error
        raise
    return list(found.devices)


def mesh_of(machine: Machine, sizes: dict[str, int]) -> Mesh:
    """Lays a machine's devices out as data × fsdp × tensor."""
    return make_mesh(**sizes, devices=devices_of(machine))


def bytes_here(tree: Any, fallback: Any = None) -> int:
    """Sums the bytes that one device holds of a tree of placed shapes.

    Args:
        tree: leaves with shape, dtype and `sharding`.
        fallback: the placement of leaves without one; None takes them whole.
    """
    total = 0
    for leaf in jax.tree.leaves(tree):
        placed = getattr(leaf, "sharding", None) or fallback
        shape = leaf.shape if placed is None else placed.shard_shape(leaf.shape)
        typed = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        total += int(np.prod(shape)) * (8 if typed else np.dtype(leaf.dtype).itemsize)
    return total


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_OVER = (
    # libtpu's two ways to say it.
    re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm"),
    re.compile(r"temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)"),
)


def over_memory(message: str) -> tuple[int, int] | None:
    """Reads (bytes needed, bytes there) from a complaint about memory; None from any other."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    for pattern in _OVER:
        found = pattern.search(message)
        if found:
            used, unit, there, unit2 = found.groups()
            return int(float(used) * _UNITS[unit]), int(float(there) * _UNITS[unit2])
    return 0, 0


def measure(
    machine: Machine,
    traced: Any,
    *,
    state: int,
    batch: int,
    exact: bool = False,
) -> Measured:
    """Compiles a traced step and measures what came out.

    Args:
        machine: whose devices the step is placed on.
        traced: from `jitted.trace(...)`.
        state: bytes a device of state and frozen parameters.
        batch: bytes a device of the batch.
        exact: let the TPU compiler make its full effort, as the run itself does.
    """
    begin = time.monotonic()
    tpu = machine.chip.kind == "tpu"
    flops = count_flops(traced.jaxpr)
    limit = machine.chip.usable
    memory = cost = None
    message, needed = "", 0
    try:
        compiled = traced.lower().compile(compiler_options=QUICK if tpu and not exact else None)
    except jax.errors.JaxRuntimeError as error:
        message = str(error)
        over = over_memory(message)
        if over is None:
            raise
        needed = over[0]
        limit = over[1] or limit
        if "temporaries" in message.splitlines()[0]:
            needed += state + batch
    else:
        m = compiled.memory_analysis()
        memory = Memory(
            m.argument_size_in_bytes, m.output_size_in_bytes, m.temp_size_in_bytes,
            m.alias_size_in_bytes, m.generated_code_size_in_bytes,
        )  # fmt: skip
        needed = memory.total
        cost = cost_of(parse(compiled.as_text()))
    seconds = time.monotonic() - begin
    return Measured(
        machine, state, batch, memory, needed, limit, message, cost, flops, seconds, not tpu
    )


def gib(count: float) -> str:
    """Writes bytes in GiB."""
    return f"{count / GIB:.2f} GiB"

"""The device mesh, and which axis of which array lies on which of its axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import DictKey, tree_map_with_path

from openseg_jax.errors import UserError
from openseg_jax.tasks.base import Rules
from openseg_jax.train.optim import match_rules
from openseg_jax.train.state import TrainState, flat_names
from openseg_jax.types import Int

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

# Stacked blocks are [depth, in, out]. Columns of the first map of a pair and rows of the second
# lie on "tensor", so that no exchange is needed between them.
TRANSFORMER_RULES: Rules = (
    (r".*/blocks/(attn/(query|key|value)|mlp/c_fc)/kernel", (None, "fsdp", "tensor")),
    (r".*/blocks/(attn/out|mlp/c_proj)/kernel", (None, "tensor", "fsdp")),
    (r".*/blocks/(attn/(query|key|value)|mlp/c_fc)/bias", (None, "tensor")),
    (r".*", "fsdp"),
)


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, *, devices: Sequence[Any] | None = None
) -> Mesh:
    """Lays all devices out as data × fsdp × tensor.

    Args:
        data: copies of the model.
        fsdp: devices that share one copy's parameters, each with other rows of the batch.
        tensor: devices that share one copy's matrix products. One of the three may be −1: what
            the others leave.
        devices: None takes all.
    """
    devices = jax.devices() if devices is None else list(devices)
    asked = (data, fsdp, tensor)
    rest = math.prod(size for size in asked if size != -1)
    shape = tuple(len(devices) // max(rest, 1) if size == -1 else size for size in asked)
    if min(shape) < 1 or math.prod(shape) != len(devices):
        raise UserError(
            f"mesh: expected data×fsdp×tensor = {len(devices)} devices, got "
            f"{'×'.join(map(str, asked))}; change the mesh or use -1 for one of them"
        )
    # Automatic axes: explicit ones, jax.make_mesh's default, reject plain indexing and nn.Embed.
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def spec_for(rule: Any, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Turns a rule's value into a PartitionSpec that the shape can bear.

    Args:
        rule: "fsdp" (the longest axis that divides), None (a copy on each device), or a tuple
            with a mesh axis or None for each axis. Mesh axes that do not divide are dropped.
        shape: of the array.
        mesh: the mesh.
    """
    if rule is None:
        return PartitionSpec()
    if rule == "fsdp":
        size = mesh.shape["fsdp"]
        order = sorted(range(len(shape)), key=lambda axis: (-shape[axis], axis))
        for axis in order if size > 1 else ():
            if shape[axis] % size == 0:
                return PartitionSpec(*[None] * axis, "fsdp")
        return PartitionSpec()
    if len(rule) != len(shape):
        raise UserError(
            f"sharding: expected one entry for each of {len(shape)} axes, got {rule}; correct it"
        )
    kept = [a if a and n % mesh.shape[a] == 0 else None for a, n in zip(rule, shape, strict=True)]
    return PartitionSpec(*kept)


def state_sharding(state: TrainState, rules: Rules, mesh: Mesh) -> TrainState:
    """Places a training state: parameters by rule, an optimiser's moments beside them.

    Args:
        state: arrays or shapes.
        rules: (name expression, value of `spec_for`); every parameter must match.
        mesh: the mesh.
    """
    names = flat_names(state.params)
    values = match_rules(rules, names, "sharding")
    specs = {n: NamedSharding(mesh, spec_for(values[n], x.shape, mesh)) for n, x in names.items()}
    everywhere = NamedSharding(mesh, PartitionSpec())

    def place(path: Any, leaf: Any) -> NamedSharding:
        keys = [str(k.key) for k in path if isinstance(k, DictKey)]
        name = "/".join(keys)
        if name in specs and names[name].shape == leaf.shape:
            return specs[name]
        return everywhere

    return tree_map_with_path(place, state)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Places a batch: rows over "data" and "fsdp"."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def rows_here(mesh: Mesh, batch_size: int) -> Int[np.ndarray, "n"]:
    """Lists, in order, the rows of a batch that lie on this process's devices.

    Processes whose devices share a "tensor" group hold, and load, the same rows.

    Raises:
        UserError: when the batch does not divide among the devices.
    """
    groups = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size < 1 or batch_size % groups:
        raise UserError(
            f"batch_size: expected a positive multiple of {groups} (data×fsdp devices), got "
            f"{batch_size}; change it or the mesh"
        )
    held = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    every = np.arange(batch_size)
    return np.unique(np.concatenate([every[index] for index in held if index is not None]))


def put_batch(batch: Any, mesh: Mesh, batch_size: int | None = None) -> Any:
    """Makes global arrays of the rows that this process loaded.

    Args:
        batch: arrays whose rows are those of `rows_here`, in its order.
        mesh: the mesh.
        batch_size: rows of all processes together; None where there is one process.
    """
    placed = batch_sharding(mesh)
    size = len(jax.tree.leaves(batch)[0]) if batch_size is None else batch_size
    rows = rows_here(mesh, size)

    def put(x: Any) -> Any:
        def piece(index: Any) -> Any:
            first, stop, _ = index[0].indices(size)
            at = int(np.searchsorted(rows, first))
            return x[at : at + stop - first]

        return jax.make_array_from_callback((size, *x.shape[1:]), placed, piece)

    return jax.tree.map(put, batch)


def put_whole(tree: Any, placed: Any) -> Any:
    """Places arrays that every process holds whole; each device takes its part.

    Args:
        tree: of arrays, the same in every process.
        placed: a placement for all, or a tree of them.
    """
    if isinstance(placed, NamedSharding):
        placed = jax.tree.map(lambda _: placed, tree)

    def put(x: Any, sharding: NamedSharding) -> Any:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, tree, placed)


def to_host(tree: Any) -> Any:
    """Copies arrays to the host, whole also where other processes hold parts of them.

    Every process must call it: what is spread over processes is gathered leaf by leaf.
    """

    def copy(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return jax.device_get(x)
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(copy, tree)

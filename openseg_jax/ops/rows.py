"""Keeps the rows of a batch on the devices that they came to.

Where parameters are shared by devices that also hold different rows (mesh axis "fsdp"), the
compiler may leave the weights in place and spread a row's features instead, and then sums
activations over devices in every block: a hundred times what gathering the weights would send.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_PLACE: contextvars.ContextVar[tuple[Mesh, tuple[str, ...]] | None] = contextvars.ContextVar(
    "rows", default=None
)


@contextlib.contextmanager
def rows_on(mesh: Mesh, axes: tuple[str, ...]) -> Iterator[None]:
    """Makes `keep_rows` place first axes on axes of a mesh, for what is traced inside."""
    token = _PLACE.set((mesh, axes))
    try:
        yield
    finally:
        _PLACE.reset(token)


def keep_rows(tree: Any) -> Any:
    """Returns arrays whose first axis lies where `rows_on` says; the same arrays outside of it.

    Arrays without axes, or whose first one does not divide, are left as they are.
    """
    place = _PLACE.get()
    if place is None:
        return tree
    mesh, axes = place
    parts = math.prod(mesh.shape[axis] for axis in axes)
    if parts == 1:
        return tree
    spread = NamedSharding(mesh, PartitionSpec(axes))

    def keep(x: Any) -> Any:
        if not getattr(x, "ndim", 0) or x.shape[0] % parts:
            return x
        return jax.lax.with_sharding_constraint(x, spread)

    return jax.tree.map(keep, tree)

"""Sums over all pairs of a batch that lies on many devices, with no array of all pairs.

Each device keeps its rows of one side. The rows of the other side travel around the devices in a
ring, and of each meeting only tiles of `block` × `block` pairs exist at a time.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from openseg_jax.errors import UserError, expected
from openseg_jax.types import Array, Float, Int

# (kept, seen, sums) -> (kept, sums): what a device does with rows that come by.
Visit = Callable[[Any, Any, Any], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Ring:
    """How a batch lies on devices, and how much of its pairs is looked at together.

    Attributes:
        mesh: the devices; None for one device, without any exchange.
        axes: names of the mesh axes that the rows of the batch lie on, the slowest first. On other
            axes of the mesh the batch is repeated, and so is the work.
        block: rows of a tile of pairs, and its columns. The last tile of a side may be smaller.
    """

    mesh: Mesh | None = None
    axes: tuple[str, ...] = ()
    block: int = 1024

    def __post_init__(self) -> None:
        if self.block < 1:
            raise expected("block", "1 row or more", str(self.block), "try 1024")
        lost = [a for a in self.axes if self.mesh is None or a not in self.mesh.shape]
        if lost:
            has = "no mesh" if self.mesh is None else f"one of {tuple(self.mesh.shape)}"
            raise expected("axes", "names of the mesh's axes", f"{lost} on {has}", "correct them")

    @property
    def size(self) -> int:
        """Counts the devices that hold different rows."""
        return math.prod(self.mesh.shape[a] for a in self.axes) if self.mesh is not None else 1

    @property
    def rows(self) -> PartitionSpec:
        """The placement of arrays with one row an example."""
        return PartitionSpec(self.axes)

    def check(self, batch: int) -> None:
        """Raises `UserError` for a batch that does not divide among the devices."""
        if batch % self.size:
            raise UserError(
                f"batch: expected a multiple of {self.size} devices ({' × '.join(self.axes)}), got "
                f"{batch} rows; change the batch, accumulate, or the mesh"
            )

    def run(self, function: Any, in_specs: Any, out_specs: Any) -> Any:
        """Returns a function of global arrays that runs `function` on each device's part."""
        if self.mesh is None:
            return function
        return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs)

    def total(self, x: Any) -> Any:
        """Sums over devices; every device gets the sum."""
        return jax.lax.psum(x, self.axes) if self.axes else x

    def start(self, x: Any) -> Any:
        """Marks a constant as the beginning of sums that differ from device to device."""
        if not self.axes:
            return x
        return jax.tree.map(lambda a: jax.lax.pcast(a, self.axes, to="varying"), x)

    def numbers(self, rows: int) -> jax.Array:
        """Numbers this device's rows as they are numbered in the whole batch."""
        first = jax.lax.axis_index(self.axes) * rows if self.axes else 0
        return first + jnp.arange(rows, dtype=jnp.int32)

    def hop(self, x: Any) -> Any:
        """Gives to the next device, takes from the one before."""
        turns = [(i, (i + 1) % self.size) for i in range(self.size)]
        return jax.tree.map(lambda a: jax.lax.ppermute(a, self.axes, turns), x)

    def tour(
        self, visit: Visit, kept: Any, seen: Any, sums: Any, add: Callable[[Any, Any], Any]
    ) -> tuple[Any, Any]:
        """Takes each device's rows to all devices.

        With N devices, `seen` and `sums` are sent N − 1 times each: rows do not travel home, and
        what is summed for them at home waits there.

        Args:
            visit: what happens at a device; the own rows come first.
            kept: stays on the device and is handed from visit to visit.
            seen: travels, and is only read.
            sums: travels with it, is added to, and comes home; given as the sums of nothing.
            add: joins two such sums of the same rows.

        Returns:
            What was kept, and the sums of this device's rows over all devices.
        """
        kept, own = visit(kept, seen, sums)
        if self.size == 1:
            return kept, own

        def turn(held: Any, _: None) -> tuple[Any, None]:
            kept, seen, sums = held
            seen = self.hop(seen)
            kept, sums = visit(kept, seen, sums)
            return (kept, seen, self.hop(sums)), None

        # The first hop of the sums is that of a block which was just seen, so a block's sums are
        # one device ahead of home after N − 1 visits and N − 1 hops: at home.
        (kept, _, sums), _ = jax.lax.scan(turn, (kept, seen, sums), length=self.size - 1)
        return kept, add(own, sums)


def scan_blocks(
    body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, rows: Any, block: int
) -> tuple[Any, Any]:
    """Does what `jax.lax.scan` does, with blocks of rows in the place of single rows.

    Args:
        body: (carry, block of rows) -> (carry, results with as many rows). It is also called with
            a shorter block, where `block` does not divide the number of rows.
        carry: handed from block to block.
        rows: arrays of equally many rows.
        block: rows of a block.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    if count <= block:
        return body(carry, rows)
    whole = count // block
    cut = whole * block
    cut_rows = jax.tree.map(lambda x: x[:cut].reshape(whole, block, *x.shape[1:]), rows)
    carry, done = jax.lax.scan(body, carry, cut_rows)
    done = jax.tree.map(lambda x: x.reshape(cut, *x.shape[2:]), done)
    if cut < count:
        carry, rest = body(carry, jax.tree.map(lambda x: x[cut:], rows))
        done = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), done, rest)
    return carry, done


def over_tiles(
    tile: Callable[[Any, Any, Any, Any], tuple[Any, Any]],
    kept: Any,
    own: Any,
    sums: Any,
    seen: Any,
    block: int,
) -> tuple[Any, Any]:
    """Goes over the pairs of two sets of rows, tile by tile.

    Args:
        tile: (own rows, their kept sums, seen rows, their sums) -> (kept sums, sums), for blocks.
        kept: sums for the own rows; own: what is read of them.
        sums: sums for the seen rows; seen: what is read of them.
        block: rows and columns of a tile.
    """

    def column(kept: Any, at: Any) -> tuple[Any, Any]:
        seen, sums = at

        def row(sums: Any, at: Any) -> tuple[Any, Any]:
            own, kept = at
            kept, sums = tile(own, kept, seen, sums)
            return sums, kept

        sums, kept = scan_blocks(row, sums, (own, kept), block)
        return kept, sums

    return scan_blocks(column, kept, (seen, sums), block)


class Best(NamedTuple):
    """The best column of each row so far: its number in the batch, and whether it is a positive."""

    value: Float[Array, "B"]
    number: Int[Array, "B"]
    hit: Int[Array, "B"]


def no_best(rows: int, dtype: Any) -> Best:
    """Returns the best of no columns."""
    zero = jnp.zeros(rows, jnp.int32)
    return Best(jnp.full(rows, -jnp.inf, dtype), jnp.full(rows, 2**31 - 1, jnp.int32), zero)


def better(best: Best, logits: Any, number: Any, positive: Any) -> Best:
    """Takes more columns into account; of equal ones the first of the batch wins, as in argmax.

    Args:
        best: so far.
        logits: Float[B C].
        number: Int[C], the columns' places in the batch, ascending.
        positive: Bool[B C].
    """
    place = jnp.argmax(logits, axis=1)
    value = logits.max(axis=1)
    hit = jnp.take_along_axis(positive, place[:, None], axis=1)[:, 0].astype(jnp.int32)
    new = (value > best.value) | ((value == best.value) & (number[place] < best.number))
    return Best(
        jnp.maximum(best.value, value),
        jnp.where(new, number[place], best.number),
        jnp.where(new, hit, best.hit),
    )


def product(a: Any, b: Any) -> Any:
    """Multiplies matrices; summed, and returned, in float32 or better."""
    return jnp.dot(a, b, preferred_element_type=accumulator(a.dtype))


def accumulator(dtype: Any) -> Any:
    """Returns float32, or float64 for float64."""
    return jnp.promote_types(dtype, jnp.float32)


add_trees = functools.partial(jax.tree.map, jnp.add)

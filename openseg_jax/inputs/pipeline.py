"""From examples addressed by index to batches, with a position that a checkpoint can hold.

Workers run NumPy and Pillow code only: touching JAX in them would start a second runtime.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from absl import flags

from openseg_jax.errors import UserError

Example = dict[str, Any]


class Source(Protocol):
    """Examples by index; the same index always gives the same example."""

    def __len__(self) -> int:
        """Counts the examples."""
        ...

    def __getitem__(self, index: int) -> Example:
        """Makes one example: arrays of fixed shapes, by name."""
        ...


@runtime_checkable
class EpochSource(Source, Protocol):
    """A source whose examples differ from epoch to epoch: random crops."""

    def at(self, index: int, epoch: int) -> Example:
        """Makes the example of an epoch; the same two numbers always give the same example."""
        ...


class _AtEpoch:
    """Turns indexes into examples, given their place in the endless stream. Workers pickle it."""

    def __init__(self, source: EpochSource, length: int) -> None:
        self.source, self.length = source, length

    def __call__(self, place: int, index: int) -> Example:
        return self.source.at(index, place // self.length)


def batches(
    source: Source,
    batch_size: int,
    *,
    seed: int = 0,
    shuffle: bool = True,
    shard: int = 0,
    shards: int = 1,
    threads: int = 2,
    workers: int = 0,
    prefetch: int = 4,
) -> grain.DatasetIterator:
    """Reads a source for ever, in batches of one process's share.

    Each epoch visits every example of the shard once (up to the last whole batch of all epochs
    together) in an order of its own. The iterator's `get_state` and `set_state` continue it.

    Args:
        source: examples by index; an `EpochSource` is told the epoch too.
        batch_size: rows of the batches of all processes together.
        seed: of the order.
        shuffle: False keeps the source's order, for streams that are random already.
        shard: index of this process; shards: number of processes. Shards are disjoint.
        threads: that load examples, in each worker.
        workers: processes that load examples; 0 loads in threads of this process.
        prefetch: batches made ahead.

    Raises:
        UserError: when the batch does not divide among processes, or a shard has no example.
    """
    if batch_size < 1 or batch_size % shards:
        raise UserError(
            f"batch_size: expected a positive multiple of {shards} processes, got {batch_size}; "
            "change it"
        )
    if len(source) < shards:
        raise UserError(
            f"input: expected at least {shards} examples, got {len(source)}; "
            "use fewer processes or more data"
        )
    changing = isinstance(source, EpochSource)
    start: Any = grain.MapDataset
    data = start.range(len(source)) if changing else start.source(source)
    data = data.seed(seed)
    if shuffle:
        data = data.shuffle()
    data = data[shard::shards]
    length = len(data)
    data = data.repeat()
    if changing:
        data = data.map_with_index(_AtEpoch(source, length))
    data = data.batch(batch_size // shards, drop_remainder=True)
    # With worker processes, each keeps its own threads and buffer, counted in batches as well.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, 1))
    stream = data.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():
            # Grain's workers read an absl flag, and our commands do not parse absl's flags.
            flags.FLAGS.mark_as_parsed()
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return stream.__iter__()


def batch_spec(source: Source, batch_size: int) -> dict[str, Any]:
    """Tells the shapes and dtypes of a batch without loading more than one example."""
    import jax

    return {
        name: jax.ShapeDtypeStruct((batch_size, *np.shape(x)), np.asarray(x).dtype)
        for name, x in source[0].items()
    }

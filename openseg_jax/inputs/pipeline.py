"""From examples addressed by index to batches, with a position that a checkpoint can hold.

Workers run NumPy and Pillow code only: touching JAX in them would start a second runtime.
"""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from absl import flags, logging

from openseg_jax.errors import UserError

Example = dict[str, Any]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GRACE = 30.0  # seconds that a loading process lives after SIGTERM


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


class _Rows:
    """This process's rows of an endless stream of batches, as grain reads them. Workers pickle it.

    Row k of the whole stream is example `order[k]`, whoever loads it.
    """

    def __init__(
        self, source: Source, order: Any, batch_size: int, rows: tuple[int, ...], start: int
    ) -> None:
        self.source, self.order, self.start = source, order, start
        self.batch_size, self.rows, self.examples = batch_size, rows, len(source)

    def __len__(self) -> int:
        return (sys.maxsize - self.start) // self.batch_size * len(self.rows)

    def __getitem__(self, index: int) -> Example:
        batch, row = divmod(int(index), len(self.rows))
        place = self.start + batch * self.batch_size + self.rows[row]
        chosen = int(self.order[place])
        if isinstance(self.source, EpochSource):
            return self.source.at(chosen, place // self.examples)
        return self.source[chosen]


class Batches:
    """An endless iterator of batches whose position is one number, the same in every process.

    The position counts examples of all processes together. What comes after it depends on source,
    seed and shuffling alone, so that other numbers of processes, workers, threads and rows go on
    exactly where these stopped.
    """

    def __init__(self, start: Callable[[int], grain.DatasetIterator], batch_size: int, of: int):
        self._start, self._batch_size, self._of = start, batch_size, of
        self._stream: grain.DatasetIterator | None = None
        self.examples = 0

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Example:
        if self._stream is None:
            self._stream = self._start(self.examples)
            batch = _deaf(self._stream.__next__)  # starts the loading processes
        else:
            batch = next(self._stream)
        self.examples += self._batch_size
        return batch

    def get_state(self) -> dict[str, int]:
        """Returns the position; batches that are prefetched lie behind it."""
        return {"examples": self.examples, "of": self._of}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Moves to a position."""
        if state["of"] != self._of:
            logging.warning(
                "the data had %d examples, now %d: the order is another one from here on",
                state["of"],
                self._of,
            )
        self.close()
        self.examples = int(state["examples"])

    def close(self) -> None:
        """Stops what loads ahead; the next batch starts it again."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None


def _deaf(call: Callable[[], Example]) -> Example:
    """Calls in a thread that takes no SIGINT and no SIGTERM.

    Threads and processes that are started in it inherit that, so that a loading process cannot be
    ended in the second before its `_guard` runs. The caller's own thread stays as it was.
    """
    done: concurrent.futures.Future[Example] = concurrent.futures.Future()
    # Its own start would open the signals again in the thread that needs it first.
    multiprocessing.resource_tracker.ensure_running()

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            done.set_result(call())
        except BaseException as error:  # handed to the caller, whatever it is
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.result()


def _guard(index: int, count: int, *, grace: float) -> None:
    """Prepares a loading process to outlive signals, but not the process that it loads for.

    Ctrl-C reaches all processes of a terminal, and schedulers send SIGTERM to all of a job; the
    trainer still needs batches to come to its last step. When it is killed itself, nobody else
    would end these. Until here the signals were blocked, see `_deaf`.
    """
    del index, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def later(number: int, frame: Any) -> None:
        last = threading.Timer(grace, os._exit, (128 + number,))
        last.daemon = True
        last.start()

    signal.signal(signal.SIGTERM, later)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    # Known since birth: asked for here, a parent that is gone already would not be missed.
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def batches(
    source: Source,
    batch_size: int,
    *,
    seed: int = 0,
    shuffle: bool = True,
    rows: Sequence[int] | None = None,
    threads: int = 2,
    workers: int = 0,
    prefetch: int = 4,
) -> Batches:
    """Reads a source for ever, in batches or one process's rows of them.

    Each epoch visits every example once (up to the last whole batch of all epochs together) in an
    order of its own. The iterator's `get_state` and `set_state` continue it.

    Args:
        source: examples by index; an `EpochSource` is told the epoch too.
        batch_size: rows of a whole batch.
        seed: of the order.
        shuffle: False keeps the source's order, for streams that are random already.
        rows: those of each batch that this process loads, see `train.sharding.rows_here`; None
            loads all. The whole batch is the same however processes share it.
        threads: that load examples, in each worker.
        workers: processes that load examples; 0 loads in threads of this process.
        prefetch: batches made ahead.

    Raises:
        UserError: for a batch without rows, or a source without examples.
    """
    if batch_size < 1:
        raise UserError(f"batch_size: expected 1 or more, got {batch_size}; change it")
    if not len(source):
        raise UserError("input: expected examples, got none; give other data")
    order = grain.MapDataset.range(len(source)).seed(seed)
    order = (order.shuffle() if shuffle else order).repeat()
    mine = tuple(range(batch_size) if rows is None else rows)
    # With worker processes, each keeps its own threads and buffer, counted in batches as well.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, 1))

    def start(examples: int) -> grain.DatasetIterator:
        reader: Any = _Rows(source, order, batch_size, mine, examples)
        data = grain.MapDataset.source(reader).batch(len(mine), drop_remainder=True)
        stream = data.to_iter_dataset(options)
        if workers:
            if not flags.FLAGS.is_parsed():
                # Grain's workers read an absl flag, and our commands do not parse absl's flags.
                flags.FLAGS.mark_as_parsed()
            counted = grain.MultiprocessingOptions(num_workers=workers)
            guard = functools.partial(_guard, grace=_GRACE)
            stream = stream.mp_prefetch(counted, worker_init_fn=guard)
        return stream.__iter__()

    return Batches(start, batch_size, len(source))


def batch_spec(source: Source, batch_size: int) -> dict[str, Any]:
    """Tells the shapes and dtypes of a batch without loading more than one example."""
    import jax

    return {
        name: jax.ShapeDtypeStruct((batch_size, *np.shape(x)), np.asarray(x).dtype)
        for name, x in source[0].items()
    }

"""Exchange between processes that evaluate together, exact whatever JAX's integers are."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

__all__ = ["gather_bytes", "share"]


def share(count: int, process: int | None = None, processes: int | None = None) -> range:
    """Returns the indices of this process: every n-th one.

    Args:
        count: pictures in all.
        process, processes: number of this one and of all; None asks JAX.
    """
    process = jax.process_index() if process is None else process
    return range(process, count, jax.process_count() if processes is None else processes)


def gather_bytes(payload: bytes) -> Sequence[bytes]:
    """Returns what each process gave, in their order; every process must call it.

    Bytes rather than numbers travel, so that 64-bit counts arrive whole though JAX's arrays have
    32 bits.
    """
    if jax.process_count() == 1:
        return [payload]
    lengths = multihost_utils.process_allgather(np.asarray([len(payload)], np.int32)).ravel()
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(payload)] = np.frombuffer(payload, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(lengths), -1)
    return [rows[i, :n].tobytes() for i, n in enumerate(lengths)]

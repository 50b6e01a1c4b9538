"""Calling a function on many values in processes, in whatever order they end."""

from __future__ import annotations

import concurrent.futures
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from openseg_jax.errors import UserError

__all__ = ["cores", "run"]

_FEW = 128  # so many are done before processes have started
_CHUNK = 8  # values that go to a process at a time
_AHEAD = 4  # chunks that wait for each process

V, R = TypeVar("V"), TypeVar("R")


def cores() -> int:
    """Counts the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(call: Callable[[V], R], values: Sequence[V], workers: int) -> Iterator[list[R]]:
    """Yields the results of some calls as they end.

    Args:
        call: a function of a module, or a `functools.partial` of one.
        values: what to call it with; they travel between processes.
        workers: processes; with 1, or few values, everything happens in this one.

    Raises:
        UserError: when a process was killed; and whatever a call raises, the first of them.
    """
    chunks = [values[i : i + _CHUNK] for i in range(0, len(values), _CHUNK)]
    if workers == 1 or len(values) <= _FEW:
        for chunk in chunks:
            yield [call(value) for value in chunk]
        return
    workers = min(workers, len(chunks))
    pool = concurrent.futures.ProcessPoolExecutor(workers, _context(call), initializer=_start)
    try:
        rest = iter(chunks)
        waiting = {
            pool.submit(_each, call, chunk) for chunk in itertools.islice(rest, _AHEAD * workers)
        }
        while waiting:
            done, waiting = concurrent.futures.wait(
                waiting, return_when=concurrent.futures.FIRST_COMPLETED
            )
            waiting |= {pool.submit(_each, call, c) for c in itertools.islice(rest, len(done))}
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, probably for lack of memory; run the same command "
            "with --workers 1"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _context(call: Any) -> Any:
    # Never fork: the caller may run threads (JAX does) whose locks a fork would copy locked.
    name = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(name)
    if name == "forkserver":
        context.set_forkserver_preload([getattr(call, "func", call).__module__])
    return context


def _start() -> None:
    # Ctrl-C reaches the whole group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _leave_with(parent: Any) -> None:
    """Ends this process when the parent is killed; it would wait for work for ever."""
    parent.join()
    os._exit(1)


def _each(call: Callable[[V], R], values: Sequence[V]) -> list[R]:
    return [call(value) for value in values]

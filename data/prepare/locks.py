"""Keeping two runs from working on the same files."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from openseg_jax.errors import UserError

__all__ = ["locked"]


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds a file or folder for this process; the system lets go of it when the process ends.

    Where there are no such locks (Windows, some network file systems) nothing is held.

    Args:
        path: that exists.
        wait: for another run to let go of it.

    Raises:
        UserError: when another run holds it, unless `wait`.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(handle)
            raise UserError(
                f"{path}: another run is at work in it; wait for that one to end"
            ) from error
    try:
        yield
    finally:
        os.close(handle)

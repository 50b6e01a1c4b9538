"""A port of this machine for the coordinator of a job, which nobody else is given meanwhile."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """Yields a free port and holds it: bound, never listening, and shared as gRPC shares its own.

    A port that is merely found free may be somebody else's when the coordinator, having imported
    JAX, comes to take it.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("", 0))
        yield held.getsockname()[1]

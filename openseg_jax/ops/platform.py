"""Which kind of device a program is traced for: this process's, or one that is only planned for."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_PLANNED: contextvars.ContextVar[str | None] = contextvars.ContextVar("planned", default=None)


def target() -> str:
    """Returns "cpu", "gpu" or "tpu"; what chooses by platform asks here."""
    return _PLANNED.get() or jax.default_backend()


@contextlib.contextmanager
def planned_for(platform: str) -> Iterator[None]:
    """Lets programs that are traced inside choose as they would on another kind of device."""
    token = _PLANNED.set(platform)
    try:
        yield
    finally:
        _PLANNED.reset(token)

"""Which devices a program is traced for: this process's, or some that are only planned for."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_PLANNED: contextvars.ContextVar[tuple[str, int] | None] = contextvars.ContextVar(
    "planned", default=None
)


def target() -> str:
    """Returns "cpu", "gpu" or "tpu"; what chooses by platform asks here."""
    planned = _PLANNED.get()
    return jax.default_backend() if planned is None else planned[0]


def target_devices() -> int:
    """Counts the devices of that kind that a program is traced for."""
    planned = _PLANNED.get()
    return jax.device_count() if planned is None else planned[1]


@contextlib.contextmanager
def planned_for(platform: str, devices: int) -> Iterator[None]:
    """Lets programs that are traced inside choose as they would on so many other devices."""
    token = _PLANNED.set((platform, devices))
    try:
        yield
    finally:
        _PLANNED.reset(token)

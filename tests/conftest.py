"""What every test may rely on: the installed package, JAX on the CPU, no shared caches."""

from __future__ import annotations

import os
from pathlib import Path

from tests.compiling import quick_flags

# Before JAX is imported anywhere. Tests on a GPU: JAX_PLATFORMS=cuda pytest -m gpu.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["OPENSEG_CACHE"] = "off"
# Unoptimised code: tiny models compile far longer than they run. OPENSEG_TEST_OPTIMIZED=1, which
# the check script sets for one of its runs, tests what users get; so does an XLA_FLAGS of your own.
if os.environ.get("OPENSEG_TEST_OPTIMIZED", "") in ("", "0"):
    os.environ.setdefault("XLA_FLAGS", quick_flags())

import pytest

try:
    import openseg_jax.configs  # noqa: F401
except ImportError as error:
    raise pytest.UsageError(
        f"openseg_jax is not installed ({error}); run: pip install -e '.[test]'"
    ) from error

# Fixtures that several packages use; they import JAX, so they stay behind the settings above.
from openseg_jax.web.models import drop_programs
from tests.cli.tiny import picture, tiny_model, world_model  # noqa: F401

GIB = 2**30


def resident() -> int:
    """Returns the bytes that this process holds; 0 where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


class Growth:
    """How much a test process held when it last let its compiled programs go."""

    since = 0


@pytest.fixture(scope="module", autouse=True)
def programs_are_let_go():
    """Drops what was compiled once it fills memory: thousands of tests would pile up gigabytes."""
    yield
    if resident() - Growth.since < 2 * GIB:
        return
    drop_programs()
    Growth.since = resident()

"""What every test may rely on: the installed package, JAX on the CPU, no shared caches."""

from __future__ import annotations

import os

from tests.compiling import quick_flags

# Before JAX is imported anywhere. Tests on a GPU: JAX_PLATFORMS=cuda pytest -m gpu.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["OPENSEG_CACHE"] = "off"
# Unoptimised code brings the suite from about ten minutes to five. OPENSEG_TEST_OPTIMIZED=1, which
# the check script sets for one of its two runs, tests what users get; so does an XLA_FLAGS of your
# own.
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
from tests.cli.tiny import picture, tiny_model, world_model  # noqa: F401

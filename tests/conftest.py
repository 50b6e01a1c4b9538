"""What every test may rely on: the installed package, JAX on the CPU, no shared caches."""

from __future__ import annotations

import importlib.metadata
import os

# Before JAX is imported anywhere. Tests on a GPU: JAX_PLATFORMS=cuda pytest -m gpu.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["OPENSEG_CACHE"] = "off"
# Tiny models compile far longer than they run: unoptimised code brings the suite from about ten
# minutes to five. OPENSEG_TEST_OPTIMIZED=1, which the check script sets for one of its two runs,
# tests what users get; so does an XLA_FLAGS of your own.
if os.environ.get("OPENSEG_TEST_OPTIMIZED", "") in ("", "0"):
    quick = ["--xla_backend_optimization_level=0"]
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        quick.append("--xla_cpu_use_fusion_emitters=false")  # later versions lack the switch
    os.environ.setdefault("XLA_FLAGS", " ".join(quick))

import pytest

try:
    import openseg_jax.configs  # noqa: F401
except ImportError as error:
    raise pytest.UsageError(
        f"openseg_jax is not installed ({error}); run: pip install -e '.[test]'"
    ) from error

# Fixtures that several packages use; they import JAX, so they stay behind the settings above.
from tests.cli.tiny import picture, tiny_model, world_model  # noqa: F401

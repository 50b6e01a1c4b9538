"""How tests have programs compiled."""

from __future__ import annotations

import importlib.metadata


def quick_flags() -> str:
    """Returns XLA_FLAGS for unoptimised code: tiny models compile far longer than they run."""
    quick = ["--xla_backend_optimization_level=0"]
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        quick.append("--xla_cpu_use_fusion_emitters=false")  # later versions lack the switch
    return " ".join(quick)

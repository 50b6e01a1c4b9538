"""How many multiplications and additions a traced program does, loops counted as often as they run.

XLA's own cost analysis counts the body of a loop once: for a tower whose blocks are one `scan`,
that is a twelfth. The traced program says how often a scan runs, so it is counted there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any


def count_flops(traced: Any) -> float:
    """Counts the FLOPs of all matrix products and convolutions, over all devices together.

    What blocks recompute in the backward pass (remat) is counted, as the device does it.
    Element-wise work is not: it is bounded by memory, and adds about a hundredth in a ViT.
    Bodies of `while` loops count once, of `cond` the dearest branch.

    Args:
        traced: a jaxpr, closed or not: `jax.make_jaxpr(f)(…)` or `jax.jit(f).trace(…).jaxpr`.
    """
    jaxpr = getattr(traced, "jaxpr", traced)
    return float(sum(_equation(eqn) for eqn in jaxpr.eqns))


def fused_kernels(traced: Any) -> tuple[str, ...]:
    """Names the kernels in a program that are not XLA's own, "cuDNN" and "Pallas", each once.

    Args:
        traced: as for `count_flops`.
    """
    found: set[str] = set()
    for eqn in getattr(traced, "jaxpr", traced).eqns:
        name = eqn.primitive.name
        if name.startswith("dot_product_attention"):
            found.add("cuDNN")
        elif name == "pallas_call":
            found.add("Pallas")
        else:
            for body in _bodies(eqn.params):
                found.update(fused_kernels(body))
    return tuple(sorted(found))


def _equation(eqn: Any) -> float:
    name = eqn.primitive.name
    shapes: list[Any] = [getattr(v.aval, "shape", ()) for v in eqn.invars]
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        summed = math.prod(shapes[0][axis] for axis in contracted)
        return 2.0 * math.prod(eqn.outvars[0].aval.shape) * summed
    if name == "conv_general_dilated":
        kernel = shapes[1]
        out = eqn.params["dimension_numbers"].rhs_spec[0]
        return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) / kernel[out]
    if name.startswith("dot_product_attention"):
        # cuDNN's fused kernels: two products forward, five backward (one of them again).
        (batch, queries, heads, width), keys = shapes[0], shapes[1][1]
        products = 5 if "bwd" in name else 2
        return 2.0 * products * batch * heads * queries * keys * width
    inner = [count_flops(body) for body in _bodies(eqn.params)]
    if not inner:
        return 0.0
    if name == "cond":
        return max(inner)
    times = 1
    if name == "scan":
        times = eqn.params["length"]
    elif name == "shard_map":
        times = eqn.params["mesh"].size  # its body is what one device does
    return times * sum(inner)


def _bodies(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(getattr(part, "jaxpr", part), "eqns"):
                yield part

"""The goldens' SegCLIP and small helpers that all golden tests of the method share."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.models.segclip import SegCLIP, SegCLIPConfig
from openseg_jax.weights.segclip import from_state_dict
from tests import golden

FULL = golden.cases("segclip", "full")
GROUP = golden.cases("segclip", "group")


@functools.lru_cache(maxsize=8)
def load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads a case; half floats are exact and become float32."""
    arrays, meta = golden.load(path)
    half = np.dtype(np.float16)
    return {k: v.astype(np.float32) if v.dtype == half else v for k, v in arrays.items()}, meta


def state(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Takes the weights of a case, by the published names."""
    return {k.removeprefix("w/"): v for k, v in arrays.items() if k.startswith("w/")}


@functools.lru_cache(maxsize=4)
def full_model(path: Path) -> tuple[SegCLIPConfig, Any]:
    """Reads a whole model of the goldens."""
    arrays, meta = load(path)
    config, params, _ = from_state_dict(state(arrays), file=path.name)
    # What no shape tells; the published one where the case does not say.
    told = {k: meta["config"][k] for k in ("mask_ratio",) if k in meta.get("config", {})}
    return dataclasses.replace(config, **told), params


@functools.cache
def _options() -> dict[str, Any]:
    # Tiny models compile far longer than they run; old code generation is five times faster.
    fast = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    while fast:
        try:
            jax.jit(lambda x: x + 1, compiler_options=fast)(jnp.zeros(1))
            return fast
        except jax.errors.JaxRuntimeError:
            fast.popitem()
    return fast


def quick_jit(function: Any, **settings: Any) -> Any:
    """Jits with options that make compiling cheap and running slow."""
    return jax.jit(function, compiler_options=_options(), **settings)


@functools.lru_cache(maxsize=64)
def program(config: SegCLIPConfig, method: Any, **switches: Any) -> Any:
    """Compiles a function of a bound model; equal calls share the program."""
    model = SegCLIP(config, **switches)

    def run(params: Any, *args: Any, **named: Any) -> Any:
        return model.apply({"params": params}, *args, method=method, **named)

    return quick_jit(run)


def last(x: np.ndarray) -> np.ndarray:
    """Moves the channels of images to the end."""
    return np.moveaxis(x, -3, -1)


def error(got: Any, want: np.ndarray) -> float:
    """Returns the largest difference over the largest value."""
    scale = max(float(np.abs(want).max()), 1e-12)
    return float(np.abs(np.asarray(got, np.float64) - want).max()) / scale


def close(got: Any, want: np.ndarray, tolerance: float = 1e-4) -> None:
    """Compares relative to the largest value, as the goldens' tolerance is given."""
    got = np.asarray(got)
    assert got.shape == want.shape
    assert np.isfinite(got).all()
    assert error(got, want) < tolerance

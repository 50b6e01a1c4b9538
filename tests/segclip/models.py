"""The goldens' SegCLIP and small helpers that all golden tests of the method share."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from openseg_jax.models.segclip import SegCLIP, SegCLIPConfig
from openseg_jax.weights.segclip import from_state_dict
from tests import golden

FULL = golden.cases("segclip", "full")
GROUP = golden.cases("segclip", "group")


@functools.lru_cache(maxsize=4)
def load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads a case with all floats as float32."""
    arrays, meta = golden.load(path)
    return {
        k: v.astype(np.float32) if v.dtype == np.float16 else v for k, v in arrays.items()
    }, meta


def state(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Takes the weights of a case, by the published names."""
    return {k.removeprefix("w/"): v for k, v in arrays.items() if k.startswith("w/")}


@functools.lru_cache(maxsize=4)
def full_model(path: Path) -> tuple[SegCLIPConfig, Any]:
    """Reads a whole model of the goldens."""
    config, params, _ = from_state_dict(state(load(path)[0]), file=path.name)
    return config, params


@functools.lru_cache(maxsize=64)
def program(config: SegCLIPConfig, method: Any, **switches: Any) -> Any:
    """Compiles one method of a model; equal calls share the program."""
    model = SegCLIP(config, **switches)
    return jax.jit(
        lambda params, *args, **kw: model.apply({"params": params}, *args, method=method, **kw)
    )


def last(x: np.ndarray) -> np.ndarray:
    """Moves the channels of images to the end."""
    return np.moveaxis(x, -3, -1)


def close(got: Any, want: np.ndarray, tolerance: float = 1e-4) -> None:
    """Compares relative to the largest value, as the goldens' tolerances are given."""
    got = np.asarray(got)
    assert got.shape == want.shape
    assert np.isfinite(got).all()
    assert error(got, want) < tolerance


def error(got: Any, want: np.ndarray) -> float:
    """The largest difference over the largest value."""
    return float(np.abs(np.asarray(got, np.float64) - want).max() / max(np.abs(want).max(), 1e-12))

"""All methods that the bundled weights can do, on drawn scenes: needs no download."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict
from openseg_jax.configs.eval import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the evaluation.

    Args:
        arg: "tiny" takes four scenes.
    """
    if arg not in ("", "tiny"):
        raise ValueError(f"arg: unknown name {arg!r}; known: tiny")
    c: Any = base.get_config(arg)
    c.methods = ("car", "maft", "segclip", "clip_dense")
    return c

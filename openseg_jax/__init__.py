"""Open-vocabulary segmentation in JAX: CLIP, CaR, MAFT and SegCLIP on one core."""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

# Public names and where they live. Loaded on first use: `import openseg_jax` stays light.
_PUBLIC = {
    "CLIP": "openseg_jax.models.clip",
    "CLIPConfig": "openseg_jax.models.variants",
    "MaskScores": "openseg_jax.classify",
    "Masks": "openseg_jax.types",
    "UserError": "openseg_jax.errors",
    "classify_masks": "openseg_jax.classify",
    "load_clip": "openseg_jax.weights.load",
    "load_segmenter": "openseg_jax.methods.base",
    "Segmenter": "openseg_jax.methods.base",
    "Segmentation": "openseg_jax.api",
    "segment": "openseg_jax.api",
    "to_label_map": "openseg_jax.ops.masks",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'openseg_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__


def load_ipython_extension(shell) -> None:
    """Adds `%openseg` to notebooks: `%load_ext openseg_jax`."""
    from openseg_jax.cli import notebook

    notebook.register(shell)

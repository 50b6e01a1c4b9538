"""A small, wholly computed world of pictures, captions and exact masks.

Attributes are loaded on first use: importing this package costs nothing.
"""

from __future__ import annotations

import importlib

_HOMES = {
    "CLASS_NAMES": "world", "SEEN_THINGS": "world", "STUFF": "world", "THINGS": "world",
    "UNSEEN_THINGS": "world", "class_id": "world", "synonyms": "world",
    "Scene": "streams", "crop": "streams", "presence": "streams", "scene": "streams",
    "supervised": "streams", "training_example": "streams",
    "split": "captions", "templates": "captions", "vocabulary": "captions",
}  # fmt: skip

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    """Loads a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)

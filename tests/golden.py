"""Reads golden vectors: pairs `<name>.npz` and `<name>.json` in one folder a method.

The folder is named by OPENSEG_GOLDENS (default: tests/goldens). Which cases exist, their sizes
and their counts are read from the files, so that another folder of the same layout can be tested.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np


def root() -> Path:
    """Returns the folder that holds one subfolder a method."""
    return Path(os.environ.get("OPENSEG_GOLDENS") or Path(__file__).parent / "goldens")


def cases(method: str, prefix: str) -> list[Path]:
    """Lists the npz files `<prefix>.npz` and `<prefix>_*.npz` of a method, sorted by name."""
    folder = root() / method
    return sorted(
        p for p in folder.glob("*.npz") if p.stem == prefix or p.stem.startswith(f"{prefix}_")
    )


def load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Loads one case: its arrays, and its json (empty where there is none)."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    side = path.with_suffix(".json")
    return arrays, json.loads(side.read_text()) if side.exists() else {}


def unpack(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Unpacks `np.packbits` output to Bool[shape]."""
    return np.unpackbits(bits)[: int(np.prod(shape))].reshape(shape).astype(bool)

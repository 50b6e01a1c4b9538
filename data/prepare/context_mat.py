"""PASCAL Context's full annotation: one MATLAB file a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.io

from openseg_jax.errors import UserError, expected
from openseg_jax.types import Int

__all__ = ["read_label_mat"]


def read_label_mat(path: Path, classes: int) -> Int[np.ndarray, "H W"]:
    """Reads the `LabelMap` of a .mat file.

    Args:
        path: the file.
        classes: how many there are; value k stands for class k - 1.

    Returns:
        Int32[H W] of values 0..classes; 0 is not labelled.

    Raises:
        UserError: for a file that is missing, cut short or without a label map, and for values
            beyond the classes.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; unpack the archive again")
    try:
        content = scipy.io.loadmat(path, variable_names=["LabelMap"])
    except Exception as error:  # scipy raises whatever a damaged file leads it to
        reason = str(error) or type(error).__name__
        raise UserError(
            f"{path}: expected a complete MATLAB file, found a damaged one ({reason[:80]}); "
            "unpack the archive again"
        ) from error
    values = content.get("LabelMap")
    if values is None or values.ndim != 2 or values.dtype.kind not in "uif" or not values.size:
        raise expected(
            str(path), "LabelMap, one number a pixel",
            "none" if values is None else f"{values.dtype} of shape {values.shape}",
            "take the files of trainval.tar.gz",
        )  # fmt: skip
    low, high = values.min(), values.max()
    if not 0 <= low <= high <= classes or (values.dtype.kind == "f" and np.any(values % 1)):
        raise expected(
            str(path), f"labels from 0 to {classes}", f"{low:g} to {high:g}",
            "the file does not belong to the set, or is damaged: unpack the archive again",
        )  # fmt: skip
    return values.astype(np.int32)

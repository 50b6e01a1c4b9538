"""safetensors files, read lazily through a memory map and written one array at a time.

The format is a length, a JSON header and raw little-endian bytes. Reading it here instead of
through the library's `safe_open` gives errors that name the file and the key, and bfloat16
without torch; writing here avoids a second copy of all weights.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from openseg_jax.errors import UserError, unknown_name

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
STORAGE = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_MAX_HEADER = 100 * 2**20


class LazyArray:
    """An array on disk: shape and dtype now, numbers on `np.asarray`."""

    def __init__(self, data: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.data, self.shape, self.dtype = data, shape, dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.data.view(self.dtype).reshape(self.shape)
        return array if dtype is None else array.astype(dtype)


def _broken(path: Path, why: str) -> UserError:
    return UserError(
        f"{path}: expected a complete safetensors file, found {why}; download the file again"
    )


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, LazyArray]:
    """Opens a safetensors file; arrays are read when they are used.

    Raises:
        UserError: for a file that is missing, cut short, or not of this format.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
            if length < 2 or length > min(size - 8, _MAX_HEADER):
                raise _broken(path, f"{size} bytes that do not begin with its header")
            header = json.loads(file.read(length))
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror}); check the path") from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise _broken(path, "a damaged header") from error
    base, room = 8 + length, size - 8 - length
    raw = np.memmap(path, np.uint8, "r") if room else np.zeros(base, np.uint8)
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape = DTYPES[entry["dtype"]], tuple(int(n) for n in entry["shape"])
            begin, end = (int(n) for n in entry["data_offsets"])
        except (KeyError, TypeError, ValueError) as error:
            raise _broken(path, f"an entry {name!r} that cannot be read") from error
        if min((0, begin, *shape)) < 0 or end - begin != math.prod(shape) * dtype.itemsize:
            raise _broken(path, f"an entry {name!r} whose size and shape differ")
        if end > room:
            raise _broken(path, f"{room} bytes of data where {name!r} ends at {end}")
        arrays[name] = LazyArray(raw[base + begin : base + end], shape, dtype)
    return arrays


def write_safetensors(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Any],
    *,
    dtype: str = "float32",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes arrays, cast one at a time.

    Args:
        path: the file, not written atomically: see `files.atomic_write`.
        arrays: by name.
        dtype: "float32", "float16" or "bfloat16"; integers keep their own.
        metadata: strings for the header.

    Raises:
        UserError: for a number that `dtype` cannot hold (float16 overflows at 65504).
    """
    if dtype not in STORAGE:
        unknown_name(dtype, STORAGE, "storage dtype")
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, array in arrays.items():
        code = _code(array, dtype)
        size = math.prod(array.shape) * DTYPES[code].itemsize
        header[name] = {
            "dtype": code,
            "shape": list(array.shape),
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with Path(path).open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for name, array in arrays.items():
            file.write(cast(name, array, DTYPES[_code(array, dtype)]).tobytes())


def _code(array: Any, dtype: str) -> str:
    own = np.dtype(array.dtype)
    floating = np.issubdtype(own, np.floating) or own == ml_dtypes.bfloat16
    return STORAGE[dtype] if floating else _NAMES[own]


def cast(name: str, array: Any, dtype: np.dtype) -> np.ndarray:
    """Casts an array to a storage dtype; a number that float16 cannot hold raises UserError."""
    array = np.asarray(array)
    with np.errstate(over="ignore"):
        out = array.astype(dtype)
    if dtype == np.float16 and np.isinf(out).any() and not np.isinf(array).any():
        raise UserError(
            f"{name}: expected numbers that float16 can hold (to 65504), found "
            f"{np.abs(array).max():.4g}; store as bfloat16 or float32"
        )
    return out

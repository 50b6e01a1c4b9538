"""npz files, read one array at a time and written whole or not at all.

numpy's own reader takes a file with pickled objects for an error late, and keeps bfloat16 as two
opaque bytes; this one refuses the first by name and views the second back.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from openseg_jax.errors import UserError
from openseg_jax.files import atomic_write


class NpzArray:
    """An array in an npz file: shape and dtype now, numbers on `np.asarray`."""

    def __init__(self, path: Path, member: str) -> None:
        self.path, self.member = path, member
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            self.shape, _, dtype = read(file)
        if dtype.hasobject:
            raise UserError(
                f"{path}: refused: {member} is a pickled object, and weights need only arrays; "
                "get the file from its first source"
            )
        self.dtype = np.dtype(ml_dtypes.bfloat16) if dtype == np.dtype("V2") else dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
                array = np.lib.format.read_array(file, allow_pickle=False).view(self.dtype)
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
            raise _broken(self.path, f"{self.member} damaged") from error
        return array if dtype is None else array.astype(dtype)


def _broken(path: Path, why: str) -> UserError:
    return UserError(f"{path}: expected a complete npz file, found {why}; download the file again")


def is_npz(path: Path) -> bool:
    """Says whether `path` is a zip file of .npy arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def read_npz(path: str | os.PathLike[str]) -> dict[str, NpzArray]:
    """Opens an npz file; arrays are read when they are used.

    Raises:
        UserError: for a file that is missing, cut short, or holds pickled objects.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
        return {name.removesuffix(".npy"): NpzArray(path, name) for name in members}
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror}); check the path") from error
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError) as error:
        raise _broken(path, "no zip file, or one cut short") from error


class MadeArray:
    """An array that is computed when it is read, of a shape that is known before."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, make: Callable[[], np.ndarray]) -> None:
        self.shape, self.dtype, self.make = shape, np.dtype(dtype), make

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.make().astype(self.dtype, copy=False)
        return array if dtype is None else array.astype(dtype)


def write_npz(
    path: str | os.PathLike[str], arrays: Iterable[tuple[str, np.ndarray]], *, root: str = ""
) -> None:
    """Writes arrays one at a time, in the order given; nobody ever sees half a file.

    Args:
        path: the file.
        arrays: names and arrays. bfloat16 is stored as numpy stores it, as two opaque bytes.
        root: put before each name.

    Raises:
        UserError: when the file cannot be written.
    """
    with atomic_write(path) as aside, zipfile.ZipFile(aside, "w") as archive:
        for name, array in arrays:
            with archive.open(f"{root}{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)

"""Reading pickles that hold plain data, and nothing else.

A pickle is a program that may call anything. This reader builds dicts, lists, tuples, sets, text,
bytes and numbers; a file that asks for any other thing by name is refused before it is built.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, NoReturn

from openseg_jax.errors import UserError

__all__ = ["read_plain_pickle"]

_LARGEST = 512 * 2**20  # bytes; the largest of the referring sets has about 40 million


class _Refused(Exception):
    """Carries the name that a pickle asked for."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _Refused(f"the outside object {pid!r:.40}")


def read_plain_pickle(path: Path) -> Any:
    """Reads a pickle of plain containers, text and numbers.

    Args:
        path: the file; Python 2's byte strings are read as UTF-8.

    Raises:
        UserError: for a file that is missing, too large or cut short, and for one that asks for
            anything but plain data, naming what it asks for.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path}: larger than any annotation file; check what it is")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror}); check the path") from error
    try:
        return _Unpickler(io.BytesIO(data), encoding="utf-8", errors="replace").load()
    except _Refused as error:
        raise UserError(
            f"{path}: refused: this pickle asks for {error}, and annotations need only plain "
            "lists, texts and numbers; get the file from its authors again"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything on its way down
        reason = str(error) or type(error).__name__
        raise UserError(
            f"{path}: expected a complete pickle, found a damaged one ({reason[:80]}); "
            "get the file again"
        ) from error

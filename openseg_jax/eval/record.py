"""The counts of every picture in a log that survives a kill: nothing is counted twice or lost.

One line of JSON a picture, written as soon as it is counted; only the cells of its confusion
matrix that are not zero. The file's name holds a hash of everything that decides the numbers, so
that a changed setting starts another log. A line that was cut short by a kill is taken off when the
log is opened again. Several processes write a file each, and all read all of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openseg_jax.errors import UserError
from openseg_jax.eval.hosts import gather_bytes
from openseg_jax.files import locked
from openseg_jax.types import Int

__all__ = ["Log", "decide_key", "state_of", "to_cells", "total"]


def decide_key(decides: Mapping[str, Any]) -> str:
    """Hashes what decides the numbers: 16 hexadecimal digits."""
    text = json.dumps(decides, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def to_cells(matrix: Int[np.ndarray, "C C"]) -> list[list[int]]:
    """Lists the places (row · C + column) that are not zero, and their counts."""
    flat = np.asarray(matrix).ravel()
    places = np.flatnonzero(flat)
    return [places.tolist(), flat[places].tolist()]


def total(cells: Sequence[Any], size: int) -> Int[np.ndarray, "C C"]:
    """Adds up what `to_cells` listed of some pictures, int64."""
    flat = np.zeros(size * size, np.int64)
    for places, counts in cells:
        flat[places] += np.asarray(counts, np.int64)
    return flat.reshape(size, size)


def state_of(items: Sequence[Any]) -> str:
    """Tells one state of a data set from another: its items, and when their files last changed.

    Who mends a mask in their own folder wants it counted again.

    Args:
        items: with a `name` each, and perhaps the files `image` and `labels`.
    """
    lines = []
    for item in items:
        files = (getattr(item, part, None) for part in ("image", "labels"))
        states = (os.stat(file) for file in files if isinstance(file, Path) and file.exists())
        lines.append(f"{item.name} {[(state.st_size, state.st_mtime_ns) for state in states]}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class Log:
    """The log of one evaluation in a folder. Without a folder it only remembers.

    Args:
        folder: made where it does not exist; None keeps nothing on disk.
        decides: everything that the numbers depend on; JSON values.
        process: number of this process; each writes a file of its own.

    Attributes:
        found: name -> cells of the pictures that are done.

    Raises:
        UserError: when the folder cannot be written or another run is writing there.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        decides: Mapping[str, Any],
        process: int = 0,
    ) -> None:
        self.found: dict[str, list[list[int]]] = {}
        self.path, self._file, self._held = None, None, contextlib.ExitStack()
        if folder is None:
            return
        key = decide_key(decides)
        self.path = Path(folder) / f"counts_{key}_{process}.jsonl"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
            self._held.enter_context(locked(self.path))
            for path in sorted(self.path.parent.glob(f"counts_{key}_*.jsonl")):
                good = self._read(path)
                if path == self.path:
                    self._file.truncate(good)
            if self._file.tell() == 0 and not self.path.stat().st_size:
                self._append({"format": "openseg_jax.counts/1", "decides": dict(decides)})
        except UserError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise self._said(error) from error

    def _read(self, path: Path) -> int:
        """Takes in the whole lines of a file; returns how many bytes they are."""
        good = 0
        with path.open("rb") as file:
            for line in file:
                row = _parsed(line)
                if row is None:
                    break
                good += len(line)
                if "name" in row:
                    self.found[row["name"]] = row["cells"]
        return good

    def add(self, name: str, matrix: Int[np.ndarray, "C C"]) -> None:
        """Records a picture; one that is there already stays as it is.

        Raises:
            UserError: when it cannot be written, e.g. on a full disk.
        """
        if name in self.found:
            return
        cells = to_cells(matrix)
        if self._file is not None:
            self._append({"name": name, "cells": cells})
        self.found[name] = cells

    def exchange(self, names: Sequence[str]) -> dict[str, Any]:
        """Returns the cells of all processes; each gives those that it names and calls this."""
        payload = json.dumps({name: self.found[name] for name in names})
        cells: dict[str, Any] = {}
        for part in gather_bytes(payload.encode()):
            cells |= json.loads(part)
        return cells

    def close(self) -> None:
        """Lets others write."""
        self._held.close()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, row: Mapping[str, Any]) -> None:
        assert self._file is not None
        try:
            self._file.write(json.dumps(row, default=str, separators=(",", ":")).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise self._said(error) from error

    def _said(self, error: OSError) -> UserError:
        reason = error.strerror or str(error)
        return UserError(
            f"{self.path}: cannot write ({reason}); free some space or choose another --out, and "
            "run the same command again: what is counted stays counted"
        )


def _parsed(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and ("cells" in row or "format" in row) else None

"""Millions of strings in two arrays: workers get them as they are, not object by object."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


class PackedStrings:
    """An immutable list of strings, stored as UTF-8 bytes and their ends.

    A list of five million captions costs a gigabyte and seconds to send to a worker process; this
    costs the text alone.

    Args:
        strings: kept in order.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        # surrogateescape: file names are bytes that need not be UTF-8.
        encoded = [text.encode("utf-8", "surrogateescape") for text in strings]
        self._ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
        self._text = np.frombuffer(b"".join(encoded), np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = self._ends[index - 1] if index else 0
        return self._text[start : self._ends[index]].tobytes().decode("utf-8", "surrogateescape")

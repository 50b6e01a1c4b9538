"""Which weights a visitor may use, and how many of them stay in memory."""

from __future__ import annotations

import collections
import ctypes
import gc
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from openseg_jax import api
from openseg_jax.errors import UserError, unknown_name
from openseg_jax.methods.base import Segmenter
from openseg_jax.weights.load import load_clip
from openseg_jax.weights.loaded import LoadedClip

__all__ = ["Models", "Programs", "allowed"]


def allowed(given: Sequence[str]) -> dict[str, str]:
    """Names the weights that a server offers.

    Args:
        given: names or paths, as the person who starts the server wrote them.
    Returns:
        what a page shows -> name or path. Of a path only its last part is shown; where two are
        alike, the next gets a number.
    """
    table: dict[str, str] = {}
    for model in given:
        if model in table.values():
            continue
        name = (Path(model).resolve().name if Path(model).exists() else "") or model
        free, number = name, 1
        while free in table:
            number += 1
            free = f"{name} ({number})"
        table[free] = model
    return table


class Models:
    """Loaded weights by the name that a page shows; those used last are kept.

    Args:
        table: from `allowed`.
        sam: the same for SAM's weights; the one used last is kept.
        keep: how many stay in memory.
        load: how weights are loaded.
    """

    def __init__(
        self,
        table: Mapping[str, str],
        *,
        sam: Mapping[str, str] | None = None,
        keep: int = 2,
        load: Callable[[str], LoadedClip] = load_clip,
    ) -> None:
        self.table, self.sam, self._keep, self._load = dict(table), dict(sam or {}), keep, load
        self._sam: tuple[str, Any] | None = None
        self._kept: collections.OrderedDict[str, LoadedClip] = collections.OrderedDict()
        self._lock = threading.Lock()

    def clip(self, name: str) -> LoadedClip:
        """Returns the weights of a name.

        Raises:
            UserError: for a name that the server was not started with.
        """
        if name not in self.table:
            unknown_name(str(name)[:80], self.table, "model")
        with self._lock:
            if name not in self._kept:
                self._kept[name] = self._load(self.table[name])
                while len(self._kept) > self._keep:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(name)
            return self._kept[name]

    def segmenter(self, method: str, name: str, settings: Mapping[str, Any]) -> Segmenter:
        """Builds a method on the weights of a name.

        Raises:
            UserError: for unknown names or settings, or weights that cannot serve the method. Of
                a path that a visitor must not see, its shown name is told.
        """
        settings, source, last = dict(settings), settings.get("sam"), self._sam
        if source and last and last[0] == source:
            # Other thresholds do not load SAM again.
            settings["masks"] = last[1]
        try:
            segmenter = api.load(method, self.clip(name), api.frozen_settings(settings))
        except UserError as error:
            raise UserError(self.veiled(str(error))) from error
        if source:
            self._sam = (source, getattr(segmenter, "masks", None))
        return segmenter

    def veiled(self, data: Any) -> Any:
        """Replaces the server's paths in a message, or JSON data, by the names that are shown."""
        if isinstance(data, Mapping):
            return {key: self.veiled(value) for key, value in data.items()}
        if isinstance(data, list | tuple):
            return [self.veiled(value) for value in data]
        if isinstance(data, str):
            for name, path in {**self.table, **self.sam}.items():
                for form in (os.path.abspath(path), path) if os.path.exists(path) else (path,):
                    # "." and names without a folder tell nothing, and stand in any sentence.
                    if os.sep in form:
                        data = data.replace(form, name)
        return data


def drop_programs() -> None:
    """Drops all compiled programs, and gives their memory back to the system where that can be."""
    jax.clear_caches()
    gc.collect()
    # Without this, glibc keeps the pieces: about 4 MB for every program that was ever compiled.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


class Programs:
    """Bounds what is compiled: each size of picture, setting and shape of texts may need programs.

    Args:
        most: when more kinds of work than this were seen, all programs are dropped.
        clear: what drops them.
    """

    def __init__(self, most: int = 24, clear: Callable[[], None] = drop_programs) -> None:
        self._most, self._clear = most, clear
        self._seen: set[Any] = set()
        self._lock = threading.Lock()

    def use(self, *kind: Any) -> bool:
        """Notes that work of a kind begins; says whether it has to be compiled first."""
        with self._lock:
            if kind in self._seen:
                return False
            if len(self._seen) >= self._most:
                self._seen.clear()
                self._clear()
            self._seen.add(kind)
            return True

"""Which weights a visitor may use, and how many of them stay in memory."""

from __future__ import annotations

import collections
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
    """Names the models that a server offers.

    Args:
        given: names or paths, as the person who starts the server wrote them.
    Returns:
        what a page shows -> name or path. Of a path only its last part is shown; where two are
        alike, the next gets a number. The miniature is always there.
    """
    table = {"miniature": "miniature"}
    for model in given:
        if model in table.values():
            continue
        name = Path(model).name if Path(model).exists() else model
        free, number = name or model, 1
        while free in table:
            number += 1
            free = f"{name} ({number})"
        table[free] = model
    return table


class Models:
    """Loaded weights by the name that a page shows; those used last are kept.

    Args:
        table: from `allowed`.
        keep: so many stay in memory.
        load: how weights are loaded.
    """

    def __init__(
        self,
        table: Mapping[str, str],
        *,
        keep: int = 2,
        load: Callable[[str], LoadedClip] = load_clip,
    ) -> None:
        self.table, self._keep, self._load = dict(table), keep, load
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
        try:
            return api.load(method, self.clip(name), api.frozen_settings(settings))
        except UserError as error:
            raise UserError(self.veiled(str(error))) from error

    def veiled(self, text: str) -> str:
        """Replaces the server's paths in a message by the names that are shown."""
        for name, path in self.table.items():
            text = text.replace(str(path), name)
        return text


class Programs:
    """Bounds what is compiled: every size of picture and every setting may need its own programs.

    Args:
        most: when more kinds of work than this were seen, all programs are dropped.
        clear: what drops them.
    """

    def __init__(self, most: int = 24, clear: Callable[[], None] = jax.clear_caches) -> None:
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

"""What a training shows now and then: pictures, what the task makes of them, how numbers lie."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from openseg_jax.tasks.base import Batch, Task, Watched
from openseg_jax.text.tokenizer import Tokenizer
from openseg_jax.train.program import Program
from openseg_jax.types import Key, Params, UInt8
from openseg_jax.viz import grid

ROWS = 8
"""Rows of a batch that are shown."""

_COLUMNS, _HEIGHT = 4, 224
_CAPTION = 120  # letters


class Look:
    """Shows the first rows of a batch every few steps.

    Every task has its pictures shown, with captions where there are any; one that is `Watched`
    adds its own pictures and histograms.

    Args:
        task: what is trained.
        program: of the training; says where results are placed.
        every: steps between two looks; 0 never looks.
        tokenizer: spells the captions; None shows none.
    """

    def __init__(
        self, task: Task, program: Program, every: int, tokenizer: Tokenizer | None = None
    ) -> None:
        self._every, self._tokenizer = every, tokenizer

        def look(params: Params, frozen: Params, batch: Batch, key: Key) -> Any:
            whole: dict[str, Any] = dict(batch)
            few = {name: x[:ROWS] for name, x in whole.items()}
            kept = {name: few[name] for name in ("image", "ids") if name in few}
            if not isinstance(task, Watched):
                return kept, {}, {}
            drawn = task.pictures(params, frozen, few, key=key)
            return kept, drawn, task.histograms(params, frozen, few, key=key)

        self._look = jax.jit(look, out_shardings=program.everywhere)

    def due(self, step: int) -> bool:
        """Tells whether to look after a step."""
        return self._every > 0 and step % self._every == 0

    def __call__(
        self, params: Params, frozen: Params, batch: Batch, key: Key
    ) -> tuple[dict[str, UInt8[np.ndarray, "n H W 3"]], dict[str, np.ndarray]]:
        """Looks; with several processes all must call it, and all get the same.

        Args:
            params: nested.
            frozen: the task's.
            batch: on the devices.
            key: for what is random in the task.

        Returns:
            Pictures and histograms by name.
        """
        kept, drawn, spread = jax.device_get(self._look(params, frozen, batch, key))
        pictures = {name: np.asarray(x) for name, x in drawn.items()}
        if "image" in kept:
            pictures["examples"] = self._sheet(kept["image"], kept.get("ids"))[None]
        return pictures, {name: np.asarray(x) for name, x in spread.items()}

    def _sheet(self, images: np.ndarray, ids: np.ndarray | None) -> UInt8[np.ndarray, "H W 3"]:
        """Lays the pictures out in rows, with their captions underneath."""
        starts = range(0, len(images), _COLUMNS)
        rows = [list(images[i : i + _COLUMNS]) for i in starts]
        if ids is None or self._tokenizer is None:
            return grid(rows, height=_HEIGHT)
        said = [self._tokenizer.decode(row)[:_CAPTION] for row in ids]
        return grid(rows, [said[i : i + _COLUMNS] for i in starts], height=_HEIGHT)

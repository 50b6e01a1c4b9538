"""Random pictures with random captions, for measuring everything but the reading of files."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from openseg_jax.inputs.image_text import caption_hash
from openseg_jax.inputs.pipeline import Example
from openseg_jax.types import Int, UInt8

POOL = 64
"""Different pictures; example i shows number i modulo this."""


@functools.lru_cache(maxsize=2 * POOL)
def _picture(seed: int, number: int, size: int) -> UInt8[np.ndarray, "S S 3"]:
    rng = np.random.default_rng([seed, number])
    picture = rng.integers(0, 256, (size, size, 3), np.uint8)
    picture.setflags(write=False)
    return picture


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """A source of {image UInt8[S S 3], ids Int32[T], caption Int32} that reads nothing.

    A few pictures of noise are made once and shown in turn; every example has a caption of its
    own, so nothing but memory is saved by that. An example costs some 50 µs of a core.

    Attributes:
        size: S, pixels.
        context: T.
        vocabulary: ids are below it.
        start, end, pad: special ids, as the text tower's tokenizer has them; start and end may
            be None.
        length: number of examples.
        seed: of pictures and captions.
        extras: makes further arrays of an example from the picture, once for each picture.
    """

    size: int
    context: int
    vocabulary: int
    start: int | None
    end: int | None
    pad: int
    length: int
    seed: int = 0
    extras: Callable[[UInt8[np.ndarray, "S S 3"]], Example] | None = None
    _extras: dict[int, Example] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        number = int(index) % POOL
        image = _picture(self.seed, number, self.size)
        if self.extras is not None and number not in self._extras:
            self._extras[number] = self.extras(image)
        ids = self._caption(int(index))
        known = self._extras.get(number, {})
        return {"image": image, "ids": ids, "caption": caption_hash(ids), **known}

    def _caption(self, index: int) -> Int[np.ndarray, "T"]:
        begin = 0 if self.start is None else 1
        rng = np.random.default_rng([self.seed, index, 1])
        count = int(rng.integers(1, self.context - begin))
        words = rng.integers(0, self.vocabulary, count)
        # A special id amid a caption would end it early.
        special = [i for i in (self.start, self.end, self.pad) if i is not None]
        words[np.isin(words, special)] = next(i for i in range(4) if i not in special)
        ids = np.full(self.context, self.pad, np.int32)
        if self.start is not None:
            ids[0] = self.start
        ids[begin : begin + count] = words
        if self.end is not None:
            ids[begin + count] = self.end
        return ids

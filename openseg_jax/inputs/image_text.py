"""Pictures with captions, as contrastive training reads them."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from openseg_jax.inputs.pipeline import Example


def caption_hash(ids: np.ndarray) -> np.int32:
    """Hashes a row of token ids; equal captions give equal numbers on every machine."""
    row = np.ascontiguousarray(ids, dtype="<i4")
    return np.int32(zlib.crc32(row.tobytes()) & 0x7FFFFFFF)


@dataclasses.dataclass(frozen=True)
class ImageText:
    """A source of {image UInt8[H W 3], ids Int32[T], caption Int32}.

    Attributes:
        example: index to (image, caption); a pure function.
        encode: captions to Int32[n T], the tokenizer's.
        length: number of examples.
        extras: makes further arrays of an example from the picture.
    """

    example: Callable[[int], tuple[np.ndarray, str]]
    encode: Callable[[Sequence[str]], np.ndarray]
    length: int
    extras: Callable[[np.ndarray], Example] | None = None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        image, caption = self.example(int(index))
        ids = self.encode([caption])[0]
        extras = {} if self.extras is None else self.extras(image)
        return {"image": image, "ids": ids, "caption": caption_hash(ids), **extras}

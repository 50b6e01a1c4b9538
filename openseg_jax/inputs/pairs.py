"""Pictures with captions from files: one interface for folders, tar shards and TFDS.

A source of pairs hands out undecoded bytes and captions by index. `PairExamples` makes training
examples of them: decoded, cropped at random, tokenised. It is what reads damaged pictures and
empty captions, so it is what counts them: on the web, one pair in a few thousand is broken.
"""

from __future__ import annotations

import dataclasses
import html
import unicodedata
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from absl import logging
from PIL import Image

from openseg_jax.errors import UserError
from openseg_jax.inputs.crops import Crop, random_crop, resize_crop
from openseg_jax.inputs.image_text import caption_hash
from openseg_jax.inputs.images import decode_picture
from openseg_jax.inputs.pipeline import Example
from openseg_jax.types import Int, UInt8

RETRIES = 50
"""Pairs in a row that may be broken; the published SegCLIP gives up after as many."""

SKIPPED = "skipped"
"""Key of Int32[2] in examples: 1 where this one stands in for a broken picture, an empty caption.

Summed over an epoch it is the number of pairs that are of no use.
"""

_SHOWN = 5  # messages about single pairs, in each worker


def _repairs() -> dict[int, str | None]:
    """Tables what ftfy makes of sound text: plain quotes, ligatures as letters, one width."""
    table: dict[int, str | None] = dict.fromkeys(map(ord, "\u02bc\u2018\u2019\u201a\u201b"), "'")
    table |= dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f"), '"')
    # Ligatures, and forms as wide as a Chinese character or half as wide.
    for code in (*range(0xFB00, 0xFB07), *range(0xFF01, 0xFFF0)):
        table[code] = unicodedata.normalize("NFKC", chr(code))
    # Control characters that are no white space.
    unseen = (*range(9), *range(14, 28), 127, *range(0x206A, 0x2070), 0xFEFF, 0xFFFC)
    return table | dict.fromkeys(unseen)


_REPAIRS = _repairs()


class Pairs(Protocol):
    """Undecoded pictures with captions, by index; the same index always gives the same pair."""

    def __len__(self) -> int:
        """Counts the pairs."""
        ...

    def __getitem__(self, index: int) -> tuple[bytes, str]:
        """Returns the bytes of a picture file and its caption; OSError where it cannot be read."""
        ...

    def name(self, index: int) -> str:
        """Says where a pair is, for messages."""
        ...


# (image, crop) to further arrays of an example, e.g. superpixels of the whole picture, cropped.
Extras = Callable[[UInt8[np.ndarray, "H W 3"], Crop], Example]


@dataclasses.dataclass(frozen=True)
class PairExamples:
    """A source of {image UInt8[S S 3], ids Int32[T], caption Int32, skipped Int32[2]}.

    Every example is a pure function of (seed, index, epoch): workers share nothing, and a resumed
    run sees what it would have seen. A broken pair is replaced by the next sound one.

    Attributes:
        pairs: where they come from.
        encode: captions to Int32[n T], the tokenizer's.
        size: S, pixels.
        seed: of the crops.
        scale: least and greatest share of the picture's area in a crop; (1, 1) takes the largest
            centred square instead.
        extras: makes further arrays of an example from the whole picture and the crop.
    """

    pairs: Pairs
    encode: Callable[[Sequence[str]], Int[np.ndarray, "n T"]]
    size: int
    seed: int = 0
    scale: tuple[float, float] = (0.5, 1.0)
    extras: Extras | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Example:
        return self.at(index, 0)

    def at(self, index: int, epoch: int) -> Example:
        """Makes the example of an epoch.

        Raises:
            UserError: when `RETRIES` pairs in a row are broken.
        """
        failed = np.zeros(2, np.int32)
        skipped = failed.copy()
        for attempt in range(min(RETRIES, len(self))):
            found = self._usable((index + attempt) % len(self), failed)
            if not attempt:
                # What is met while looking for a stand-in is counted when its own turn comes.
                skipped = failed.copy()
            if found is None:
                continue
            picture, text = found
            # The place asked for, not the one found: neighbours that meet keep their own crops.
            words = np.random.SeedSequence([self.seed, index, epoch])
            rng = np.random.Generator(np.random.PCG64(words))
            crop = random_crop(rng, (picture.height, picture.width), scale=self.scale)
            ids = self.encode([text])[0]
            extras = {} if self.extras is None else self.extras(np.array(picture), crop)
            return {
                "image": resize_crop(picture, crop, self.size),
                "ids": ids,
                "caption": caption_hash(ids),
                SKIPPED: skipped,
                **extras,
            }
        raise UserError(
            f"input: expected usable pictures with captions, got {failed[0]} broken pictures and "
            f"{failed[1]} empty captions in a row from {self.pairs.name(index)} on; "
            "check the data"
        )

    def _usable(self, place: int, failed: Int[np.ndarray, "2"]) -> tuple[Image.Image, str] | None:
        """Reads a pair; None where it is of no use, which is counted in `failed`."""
        name = self.pairs.name(place)
        try:
            data, caption = self.pairs[place]
            text = clean_caption(caption)
            if text:
                return decode_picture(data, name), text
            failed[1] += 1
            logging.log_first_n(logging.WARNING, "skipped: %s: empty caption", _SHOWN, name)
        except (OSError, ValueError) as error:  # UserError, and names with a zero byte
            failed[0] += 1
            logging.log_first_n(logging.WARNING, "skipped: %s", _SHOWN, error)
        return None


def clean_caption(text: str) -> str:
    """Undoes HTML entities, twice as CLIP does, spells quotes plainly, and collapses white space.

    Source: CLIP's `basic_clean`. Its ftfy also repairs text that was decoded by a wrong code page;
    captions are taken to be proper UTF-8 here.
    """
    plain = html.unescape(html.unescape(text)).translate(_REPAIRS)
    return " ".join(unicodedata.normalize("NFC", plain).split())

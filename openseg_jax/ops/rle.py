"""COCO's run-length encoding of masks, in its compressed text form."""

from __future__ import annotations

from typing import Any

import numpy as np

from openseg_jax.errors import UserError
from openseg_jax.types import Bool, Int


def encode(mask: Bool[np.ndarray, "H W"]) -> dict[str, Any]:
    """Encodes a mask as COCO does.

    Args:
        mask: anything nonzero is inside.
    Returns:
        {"size": [H, W], "counts": text}; pycocotools decodes it.
    Source:
        COCO API: runs down the columns, zeros first; from the fourth run on the difference to the
        run before the last; each number in groups of 5 bits, low first, plus 48 as ASCII.
    """
    mask = np.asarray(mask) != 0
    flat = np.concatenate([[False], mask.ravel(order="F"), [True]])
    # The sentinel at the end closes the last run; a mask that ends inside would hide it.
    flat[-1] = not flat[-2]
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    text = []
    for place, count in enumerate(counts):
        number = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            bits = number & 0x1F
            number >>= 5
            more = number != (-1 if bits & 0x10 else 0)
            text.append(chr((bits | (0x20 if more else 0)) + 48))
    return {"size": list(mask.shape), "counts": "".join(text)}


def decode(code: dict[str, Any]) -> Bool[np.ndarray, "H W"]:
    """Decodes `encode`'s output.

    Args:
        code: size and counts: the compressed text, or a plain list of run lengths.
    Returns:
        the mask.
    Raises:
        UserError: when the runs do not fill the size.
    """
    height, width = code["size"]
    text = code["counts"]
    if isinstance(text, str | bytes):
        counts = _runs(text.encode("latin-1", "replace") if isinstance(text, str) else text)
    else:
        counts = np.asarray(text, np.int64)
    if counts.sum() != height * width or counts.min(initial=0) < 0:
        raise UserError(
            f"counts: expected runs that fill {height}x{width}, got {counts.sum()} pixels; "
            "the mask is damaged or has another size"
        )
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


def _runs(text: bytes) -> Int[np.ndarray, "R"]:
    """Reads the run lengths of the compressed text, all groups of letters at once."""
    letters = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(letters & 0x20 == 0)
    if not ends.size or ends[-1] != len(letters) - 1:
        return np.zeros(0, np.int64)  # cut inside a number: fills no size
    starts = np.append(0, ends[:-1] + 1)
    places = np.arange(len(letters)) - np.repeat(starts, ends - starts + 1)
    if places.max() > 8:
        return np.zeros(0, np.int64)
    runs = np.add.reduceat((letters & 0x1F) << 5 * places, starts)
    runs -= np.where(letters[ends] & 0x10, 1 << 5 * (places[ends] + 1), 0)
    # From the fourth run on each is told from the run before the last: sums along every other.
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs

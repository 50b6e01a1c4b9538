"""COCO's run-length encoding of masks, in its compressed text form."""

from __future__ import annotations

from typing import Any

import numpy as np

from openseg_jax.errors import UserError
from openseg_jax.types import Bool


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
    counts: list[int] = []
    number = shift = 0
    if isinstance(code["counts"], list):
        counts = [int(count) for count in code["counts"]]
    for letter in "" if counts else code["counts"]:
        bits = ord(letter) - 48
        number |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            number -= 1 << shift
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number = shift = 0
    if sum(counts) != height * width or min(counts, default=0) < 0:
        raise UserError(
            f"counts: expected runs that fill {height}x{width}, got {sum(counts)} pixels; "
            "the mask is damaged or has another size"
        )
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T

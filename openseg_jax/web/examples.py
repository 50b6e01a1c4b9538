"""Pictures to try at once: scenes of the miniature world, drawn when the server starts."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from openseg_jax.errors import UserError
from openseg_jax.miniature.streams import scene
from openseg_jax.miniature.world import CLASS_NAMES
from openseg_jax.types import UInt8

__all__ = ["Example", "example", "examples"]

# Of the test stream, which no weights of ours have seen; picked to come out well with CaR and MAFT,
# but for the last.
_SCENES = (11, 35, 33, 21, 44, 43)
_OTHERS = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """A picture, what is in it and a few things that are not, and a sentence about it."""

    image: UInt8[np.ndarray, "H W 3"]
    labels: tuple[str, ...]
    caption: str


@functools.cache
def examples() -> tuple[Example, ...]:
    """Draws the examples; the labels of each name what is there, and some that are not."""
    found = []
    for index in _SCENES:
        drawn = scene("test", index)
        present = [CLASS_NAMES[i - 1] for i in np.unique(drawn.semantic)]
        absent = [name for name in CLASS_NAMES if name not in present]
        more = [absent[(7 * index + 5 * i) % len(absent)] for i in range(_OTHERS)]
        labels = tuple(dict.fromkeys([*present, *more]))
        found.append(Example(drawn.image, labels, drawn.caption))
    return tuple(found)


def example(index: object) -> Example:
    """Looks an example up by the number that a page sent.

    Raises:
        UserError: when there is no such example.
    """
    every = examples()
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(every):
        raise UserError(f"example: expected a number below {len(every)}; reload the page")
    return every[index]

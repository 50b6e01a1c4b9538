"""Things and stuff in two independent passes, painted stuff first.

Source: car.md §7.3 and §8. The pass over stuff has the names of all things as its backgrounds, its
own visual prompts and its own background factor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from openseg_jax.methods.car import CaR, CarResult
from openseg_jax.methods.car_texts import CarText
from openseg_jax.types import Int, UInt8

__all__ = ["TwoPass", "two_pass"]


@dataclasses.dataclass(frozen=True)
class TwoPass:
    """CaR with two vocabularies; texts are encoded once.

    Attributes:
        things, stuff: a segmenter for each pass.
        thing_text, stuff_text: their texts.
        thing_ids, stuff_ids: class of each text.
    """

    things: CaR
    stuff: CaR
    thing_text: CarText
    stuff_text: CarText
    thing_ids: tuple[int, ...]
    stuff_ids: tuple[int, ...]

    def predict(
        self, image: UInt8[np.ndarray, "H W 3"]
    ) -> tuple[Int[np.ndarray, "H W"], CarResult, CarResult]:
        """Segments one image: label map (0 background, id + 1), things, stuff."""
        things = self.things.predict(image, self.thing_text)
        stuff = self.stuff.predict(image, self.stuff_text)
        base = stuff.label_map(self.stuff_ids)
        return things.label_map(self.thing_ids, base=base), things, stuff


def two_pass(
    car: CaR,
    things: Sequence[str] | CarText,
    stuff: Sequence[str] | CarText,
    *,
    thing_ids: Sequence[int] | None = None,
    stuff_ids: Sequence[int] | None = None,
) -> TwoPass:
    """Prepares both passes on the weights and settings of one segmenter.

    Args:
        car: its prompts and background factor serve the things.
        things, stuff: names, or texts encoded before.
        thing_ids, stuff_ids: class ids; None counts things from 0, then stuff.
    """
    config = car.config
    names = things.names if isinstance(things, CarText) else tuple(things)
    second_pass = config.stuff(tuple(names))
    other = CaR(car.cam, car.classifier, second_pass, dtype=car.dtype, masks=car.masks)
    # Both passes read the same weights: share the copy that is on the device.
    other.__dict__["params"] = car.params
    if not isinstance(things, CarText):
        rivals = config.background
        if config.mutual_background and not isinstance(stuff, CarText):
            rivals = (*rivals, *(s for s in stuff if s not in rivals))
        things = car.classes(things, rivals)
    if not isinstance(stuff, CarText):
        stuff = other.classes(stuff)
    first = range(things.count) if thing_ids is None else thing_ids
    start = things.count
    second = range(start, start + stuff.count) if stuff_ids is None else stuff_ids
    return TwoPass(car, other, things, stuff, tuple(first), tuple(second))

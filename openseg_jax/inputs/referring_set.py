"""Referring expressions for evaluation: a picture, an object's mask, and what people call it.

`open_referring` reads what `openseg data prepare refcoco` (refcoco+, refcocog) wrote. An item is
one object with all of its expressions: CaR takes them together, others one at a time.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openseg_jax.errors import UserError, unknown_name
from openseg_jax.inputs.labelled_set import picture_of_size, read_prepared
from openseg_jax.ops import rle
from openseg_jax.types import Bool, UInt8

__all__ = [
    "FORMAT",
    "NAMES",
    "Referring",
    "ReferringItem",
    "ReferringSet",
    "open_referring",
]

FORMAT = "openseg-referring-1"
"""Written into a prepared data set; readers refuse others."""

NAMES = ("refcoco", "refcoco+", "refcocog")


@dataclasses.dataclass(frozen=True)
class Referring:
    """An object that people referred to.

    Attributes:
        name: of the item.
        image: UInt8[H W 3], sRGB.
        mask: Bool[H W], the object's pixels: what any of its polygons covers.
        texts: its expressions as they were typed, in the order of the data set, doubles included.
        twice: Bool[H W], what two or more of its polygons cover; None where that is nothing. CaR's
            evaluation leaves these pixels out of the object.
    """

    name: str
    image: UInt8[np.ndarray, "H W 3"]
    mask: Bool[np.ndarray, "H W"]
    texts: tuple[str, ...]
    twice: Bool[np.ndarray, "H W"] | None = None


@dataclasses.dataclass(frozen=True)
class ReferringItem:
    """What an item's row says.

    Attributes:
        name: stable and unique in the set; reports and resuming go by it.
        image: the picture's file.
        texts: see `Referring`.
        mask: run lengths, see `ops.rle`.
        twice: run lengths, or None.
    """

    name: str
    image: Path
    texts: tuple[str, ...]
    mask: Mapping[str, Any]
    twice: Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True)
class ReferringSet:
    """The objects of a split by index.

    Attributes:
        name: of the data set, e.g. "refcoco".
        split: e.g. "testA".
        items: in the order of the data set.
        facts: for the provenance line: source, licence, counts, sha256 of the list.
    """

    name: str
    split: str
    items: tuple[ReferringItem, ...]
    facts: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> Referring:
        """Reads an object.

        Raises:
            UserError: naming the file, when the picture is missing or damaged, or has another
                size than the mask.
        """
        item = self.items[index]
        mask = _mask(item.name, item.mask)
        twice = None if item.twice is None else _mask(item.name, item.twice)
        image = picture_of_size(item.image, mask.shape, f"mask of {item.name}")
        return Referring(item.name, image, mask, item.texts, twice)


def _mask(name: str, code: Mapping[str, Any]) -> Bool[np.ndarray, "H W"]:
    try:
        return rle.decode(dict(code))
    except (UserError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{name}: its mask is damaged ({error}); prepare the set again") from error


def open_referring(name: str, split: str, root: str | os.PathLike[str]) -> ReferringSet:
    """Opens a split of a prepared data set.

    Args:
        name: "refcoco", "refcoco+" or "refcocog".
        split: "train", "val", "testA", "testB" (refcocog: "train", "val", "test" by UMD's
            partition and "google_train", "google_val" by Google's).
        root: folder of all data.

    Raises:
        UserError: for unknown names, and when the set is not there, with the command to run.
    """
    if name not in NAMES:
        unknown_name(name, NAMES, "data set")
    root = Path(root)
    folder = root / "prepared" / name
    if not (folder / "dataset.json").is_file():
        raise UserError(
            f"{folder}: {name} is not prepared; run openseg data prepare {name} --root {root}"
        )
    head, rows = read_prepared(folder, FORMAT)
    if split not in head["splits"]:
        unknown_name(split, head["splits"], f"split of {name}")
    items = tuple(
        ReferringItem(
            row["name"], root / row["image"], tuple(row["texts"]), row["mask"], row.get("twice")
        )
        for row in rows
        if row["split"] == split
    )
    if not items:
        raise UserError(f"{folder}: the split {split} is empty; prepare the set again")
    kept = ("source", "licence", "limited")
    facts = {key: head[key] for key in kept if key in head}
    counts = {"count": len(items), "published": head["splits"][split]["published"]}
    return ReferringSet(name, split, items, {**facts, **counts, "sha256": head["sha256"]})

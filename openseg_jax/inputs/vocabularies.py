"""Class lists and seen/unseen splits by name; `data/vocabularies` and `data/splits` hold them."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
from pathlib import Path

import numpy as np

from openseg_jax.errors import UserError, unknown_name
from openseg_jax.types import Bool

__all__ = ["Split", "Vocabulary", "split", "split_names", "vocabulary", "vocabulary_names"]


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A list of classes.

    Attributes:
        name: of the file.
        names: text of each class, in the order of their ids; its commas belong to it.
        raw: the id that the data set's own files use for each class; None where they are the same.
        source: the data set that the list belongs to, its authors and its address.
        licence: of the annotations, and of the pictures where that is another.
        spelling: whose texts these are; results depend on them.
        variant_of: the list of the same classes in the same order that this one spells otherwise;
            "" for lists that stand for themselves.
        things: True for things, False for stuff, where the file says so; else None.
    """

    name: str
    names: tuple[str, ...]
    raw: tuple[int, ...] | None
    source: str
    licence: str = ""
    spelling: str = ""
    variant_of: str = ""
    things: tuple[bool, ...] | None = None

    @property
    def background(self) -> bool:
        """Whether class 0 is what no other class covers; it is a row of the result, no prompt."""
        return self.names[0] == "background"

    @property
    def foreground(self) -> tuple[str, ...]:
        """The texts that a method is shown: all names but the background."""
        return self.names[1:] if self.background else self.names


@dataclasses.dataclass(frozen=True)
class Split:
    """Which classes of a vocabulary training may see masks of.

    Attributes:
        name: of the file.
        vocabulary: the class list that it divides.
        unseen: Bool[C], True for classes whose masks training never shows.
        source: where the split was published.
        licence: of the split.
    """

    name: str
    vocabulary: Vocabulary
    unseen: Bool[np.ndarray, "C"]
    source: str
    licence: str = ""


def _folder(name: str) -> Path:
    return Path(importlib.import_module("openseg_jax.data").__path__[0]) / name


def vocabulary_names() -> tuple[str, ...]:
    """Lists the vocabularies that there are."""
    return tuple(sorted(p.stem for p in _folder("vocabularies").glob("*.txt")))


def split_names() -> tuple[str, ...]:
    """Lists the splits that there are."""
    return tuple(sorted(p.stem for p in _folder("splits").glob("*.json")))


@functools.cache
def vocabulary(name: str) -> Vocabulary:
    """Reads a vocabulary, e.g. "coco_stuff171".

    A file begins with lines "# key: value" (source, licence, names, columns, and where they
    apply raw and variant of); then each class is a line of the columns, separated by tabs.

    Raises:
        UserError: for an unknown name, with the nearest one.
    """
    if name not in vocabulary_names():
        unknown_name(name, vocabulary_names(), "vocabulary")
    text = (_folder("vocabularies") / f"{name}.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line]
    head = dict(x[1:].strip().split(": ", 1) for x in lines if x.startswith("#"))
    columns = head["columns"].split(", ")
    rows = [dict(zip(columns, x.split("\t"), strict=True)) for x in lines if not x.startswith("#")]
    # Files may list things before stuff; classes are in the order of their ids.
    rows.sort(key=lambda row: int(row["id"]))
    return Vocabulary(
        name=name,
        names=tuple(row["text"] for row in rows),
        raw=tuple(int(row["raw"]) for row in rows) if "raw" in columns else None,
        source=head["source"],
        licence=head["licence"],
        spelling=head["names"],
        variant_of=head.get("variant of", ""),
        things=tuple(row["kind"] == "thing" for row in rows) if "kind" in columns else None,
    )


@functools.cache
def split(name: str) -> Split:
    """Reads a seen/unseen split, e.g. "coco_stuff_156_15".

    Raises:
        UserError: for an unknown name, with the nearest one.
    """
    if name not in split_names():
        unknown_name(name, split_names(), "split")
    data = json.loads((_folder("splits") / f"{name}.json").read_text(encoding="utf-8"))
    classes = vocabulary(data["vocabulary"])
    unseen = np.zeros(len(classes.names), bool)
    unseen[data["unseen_ids"]] = True
    named = [name for name, hidden in zip(classes.names, unseen, strict=True) if hidden]
    if named != data["unseen"] or data["seen"] != int((~unseen).sum()):
        raise UserError(
            f"{name}: the split's ids and names do not agree with {classes.name}; restore the file"
        )
    unseen.setflags(write=False)
    return Split(name, classes, unseen, data["source"], data["licence"])

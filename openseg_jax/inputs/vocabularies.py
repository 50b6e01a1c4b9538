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
        source: where the list comes from, and the licence of the annotations.
    """

    name: str
    names: tuple[str, ...]
    raw: tuple[int, ...] | None
    source: str


@dataclasses.dataclass(frozen=True)
class Split:
    """Which classes of a vocabulary training may see masks of.

    Attributes:
        name: of the file.
        vocabulary: the class list that it divides.
        unseen: Bool[C], True for classes whose masks training never shows.
        source: where the split was published.
    """

    name: str
    vocabulary: Vocabulary
    unseen: Bool[np.ndarray, "C"]
    source: str


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

    Raises:
        UserError: for an unknown name, with the nearest one.
    """
    if name not in vocabulary_names():
        unknown_name(name, vocabulary_names(), "vocabulary")
    text = (_folder("vocabularies") / f"{name}.txt").read_text(encoding="utf-8")
    comments = [line[1:].strip() for line in text.splitlines() if line.startswith("#")]
    rows = [x.split("\t") for x in text.splitlines() if x and not x.startswith("#")]
    numbered = all(len(row) == 3 and row[1].isdigit() for row in rows)
    raw = tuple(int(row[1]) for row in rows) if numbered else None
    return Vocabulary(name, tuple(row[-1] for row in rows), raw, comments[0])


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
    return Split(name, classes, unseen, data["source"])

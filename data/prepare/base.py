"""What a data set needs in order to be prepared: a recipe.

A recipe lists jobs, one for each picture, and turns a job into a label map; `run.prepare` does the
rest for all data sets alike.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from openseg_jax.data.prepare.archives import Archive

from openseg_jax.errors import UserError, unknown_name
from openseg_jax.files import cannot_write, disk_is_full
from openseg_jax.inputs.data_sets import data_set
from openseg_jax.types import Int

__all__ = [
    "RECIPES",
    "Archive",
    "Job",
    "Made",
    "Recipe",
    "cannot_be_read",
    "described",
    "recipe",
    "said",
]

RECIPES = {
    "voc": "openseg_jax.data.prepare.label_maps:VOC",
    "context": "openseg_jax.data.prepare.context:RECIPE",
    "context459": "openseg_jax.data.prepare.context459:RECIPE",
    "coco_object": "openseg_jax.data.prepare.coco_object:RECIPE",
    "coco_stuff": "openseg_jax.data.prepare.label_maps:COCO_STUFF",
    "ade": "openseg_jax.data.prepare.label_maps:ADE",
    "ade847": "openseg_jax.data.prepare.ade847:RECIPE",
    "cityscapes": "openseg_jax.data.prepare.label_maps:CITYSCAPES",
    "refcoco": "openseg_jax.data.prepare.refcoco:REFCOCO",
    "refcoco+": "openseg_jax.data.prepare.refcoco:REFCOCO_PLUS",
    "refcocog": "openseg_jax.data.prepare.refcoco:REFCOCOG",
}
"""Data set -> "module:attribute" of its recipe; imported when asked for."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What is needed to make the label map of one picture. Travels between processes.

    Attributes:
        name: unique in the set; letters, digits, "_", "-", "." and "/".
        image: the picture's file.
        data: for `Recipe.make`: plain values and paths. A label map is made again when these
            change, or the files at the paths do.
        extra: values for the item's row in items.jsonl, in terms of JSON; "source", the same for
            all, goes to dataset.json in place of the recipe's.
    """

    name: str
    image: Path
    data: Any = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Made:
    """Labels with a picture of their own, for sets that are evaluated on changed pictures.

    Attributes:
        labels: Int[H W] of classes or -1.
        picture: a JPEG file of the same size.
    """

    labels: Int[np.ndarray, "H W"]
    picture: bytes


Result = Int[np.ndarray, "H W"] | Made | Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a data set is prepared.

    Attributes:
        name: of the data set.
        title: as people call it.
        task: "semantic" or "referring".
        vocabulary: its class list.
        classes: names of all classes, in the order of the labels.
        background: whether class 0 is what no other class covers.
        source: who made it.
        licence: of the annotations and the pictures.
        counts: published numbers of items; () where none is.
        get: where its files come from, for people.
        archives: that may lie in the root, to be unpacked.
        examples: lists the jobs, in order; raises UserError that says what is missing.
        make: job to Int[H W] of classes or -1 ("not labelled"), or `Made`; None leaves the picture
            out. For referring sets, to what the item's row holds: height, width, mask. Runs in
            other processes: `examples` and `make` are functions of a module.
        splits: of a referring set, with the published numbers of objects and of pictures.
    """

    name: str
    title: str
    task: str
    vocabulary: str
    classes: tuple[str, ...]
    background: bool
    source: str
    licence: str
    counts: tuple[int, ...]
    get: str
    archives: tuple[Archive, ...]
    examples: Callable[[Path], Sequence[Job]]
    make: Callable[[Job], Result]
    splits: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)


def recipe(name: str) -> Recipe:
    """Finds a recipe by the name of its data set.

    Raises:
        UserError: for an unknown name, with the nearest one.
    """
    if name not in RECIPES:
        unknown_name(name, RECIPES, "data set")
    module, attribute = RECIPES[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def cannot_be_read(path: Path, error: Exception) -> UserError:
    """Says that a file of an archive is no picture, or a part of one."""
    return UserError(f"{path}: cannot be read as a picture ({error}); unpack the archive again")


def said(path: Path, error: OSError) -> UserError:
    """Says what an error of the machine means for the person."""
    if disk_is_full(error):
        return cannot_write(path, error)
    reason = error.strerror or str(error)
    return UserError(f"{path}: cannot be read or written ({reason}); check the path and its rights")


def described(
    name: str,
    archives: tuple[Archive, ...],
    examples: Callable[[Path], Sequence[Job]],
    make: Callable[[Job], Result],
) -> Recipe:
    """Makes the recipe of a data set whose facts `inputs.data_sets` knows."""
    facts = data_set(name)
    words = facts.vocabulary
    return Recipe(
        name=name, title=facts.title, task="semantic", vocabulary=facts.words,
        classes=facts.classes, background=facts.background, source=words.source,
        licence=words.licence, counts=facts.counts, get=facts.get, archives=archives,
        examples=examples, make=make,
    )  # fmt: skip

"""What is evaluated: a data set, the texts that methods are given, and what counts as background.

| benchmark | data set | classes | background | seen/unseen split |
|---|---|---|---|---|
| voc20, voc21 | voc | 20 | voc21 | voc20: 15/5 |
| pc59, pc60 | context | 59 | pc60 | |
| pc459 | context459 | 459 | | |
| coco_object | coco_object | 80 | yes | |
| coco_stuff | coco_stuff | 171 | | 156/15 |
| ade150, ade847 | ade, ade847 | 150, 847 | | ade847: 572/275 |
| cityscapes | cityscapes | 19 | | |
| refcoco_val … refcocog_test | refcoco, refcoco+, refcocog | | | |

Which texts stand for the classes changes results, so every list of texts has a name: that of its
vocabulary. By default a method gets the texts of its own published evaluation where it has one,
else the plain names. Labels here are 0 for background and i + 1 for class i, with or without a
background among the classes.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from openseg_jax.errors import UserError, unknown_name
from openseg_jax.files import nearest_path
from openseg_jax.inputs.augment import IGNORE
from openseg_jax.inputs.labelled_set import own_parts
from openseg_jax.inputs.labels import read_labels
from openseg_jax.inputs.vocabularies import split, vocabulary, vocabulary_names
from openseg_jax.types import Bool, Int

__all__ = ["BENCHMARKS", "Benchmark", "Texts", "benchmark", "own_benchmark", "texts", "texts_for"]


def _none() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Texts:
    """What a method is told to look for.

    Attributes:
        variant: the vocabulary's name.
        names: text of each class, without a background.
        stuff: Bool[C], classes without countable instances; None where the list does not say.
    """

    variant: str
    names: tuple[str, ...]
    stuff: Bool[np.ndarray, "C"] | None = None


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: what the command line takes.
        data_set: what `openseg data prepare` takes.
        vocabulary: of the plain class names.
        background: class 0 is the background, and counts. Else pixels of no class are ignored.
        split: seen and unseen classes, or None.
        published: method -> vocabulary of the texts that its published number was made with.
        presets: method -> its published settings for this benchmark, of configs/METHOD.py.
        part: of a referring data set ("val", "testA", …); "" where classes are evaluated.
        classes: names of the classes where no vocabulary lists them (a user's own set).
        hidden: names of the unseen classes where no split lists them.
        background_texts: what methods without a background rule of their own are given as
            rivals of the classes; () takes CaR's.
    """

    name: str
    data_set: str
    vocabulary: str = ""
    background: bool = False
    split: str | None = None
    published: Mapping[str, str] = dataclasses.field(default_factory=_none)
    presets: Mapping[str, str] = dataclasses.field(default_factory=_none)
    part: str = ""
    classes: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    background_texts: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """Returns "referring" or "semantic"."""
        return "referring" if self.part else "semantic"

    @property
    def plain(self) -> Texts:
        """The plain class names, which reports print."""
        return texts(self.vocabulary) if self.vocabulary else Texts(self.name, self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the rows of the confusion matrix."""
        return (("background",) if self.background else ()) + self.plain.names

    @property
    def unseen(self) -> Bool[np.ndarray, "C"] | None:
        """Classes whose masks training never showed, a flag for each row of the matrix."""
        if self.split is not None:
            flags = split(self.split).unseen
        elif self.hidden:
            flags = np.array([name in self.hidden for name in self.plain.names])
        else:
            return None
        return np.concatenate([[False], flags]) if self.background else np.asarray(flags)

    def truth(self, labels: Int[np.ndarray, "H W"], *, background: bool) -> Int[np.ndarray, "H W"]:
        """Turns a data set's labels into this benchmark's.

        Args:
            labels: the data set's classes or `IGNORE`.
            background: whether the data set's class 0 is the background.
        Returns:
            int32, `IGNORE`, 0 for background where that counts, i + 1 for class i.
        """
        if not background:
            return np.where(labels == IGNORE, IGNORE, labels + 1).astype(np.int32)
        none = 0 if self.background else IGNORE
        return np.where(labels == 0, none, labels).astype(np.int32)


def _semantic(name: str, data_set: str, vocabulary: str, **more: Any) -> Benchmark:
    return Benchmark(name, data_set, vocabulary, **more)


def _referring() -> list[Benchmark]:
    parts = {
        "refcoco": ("val", "testA", "testB"),
        "refcoco+": ("val", "testA", "testB"),
        "refcocog": ("val", "test"),
    }
    return [
        Benchmark(f"{name}_{part}", name, part=part, presets={"car": name})
        for name, all_parts in parts.items()
        for part in all_parts
    ]


# The texts of CaR's and SegCLIP's evaluations.
_CONTEXT = {"car": "car_pascal_context", "segclip": "segclip_context"}
_VOC = {"car": "car_voc", "segclip": "segclip_voc"}
_VOC_PRESETS = {"car": "voc", "segclip": "voc"}
_CONTEXT_PRESETS = {"car": "pascal_context", "segclip": "context"}

BENCHMARKS: Mapping[str, Benchmark] = {
    row.name: row
    for row in (
        _semantic(
            "voc20", "voc", "voc20", split="voc_15_5", published=_VOC, presets=_VOC_PRESETS
        ),
        _semantic(
            "voc21", "voc", "voc21", background=True, published=_VOC, presets=_VOC_PRESETS
        ),
        _semantic("pc59", "context", "pc59", published=_CONTEXT, presets=_CONTEXT_PRESETS),
        _semantic(
            "pc60", "context", "pc60", background=True, published=_CONTEXT,
            presets=_CONTEXT_PRESETS,
        ),
        _semantic("pc459", "context459", "pc459", presets={"car": "pascal_context_459"}),
        _semantic(
            "coco_object", "coco_object", "coco_object81", background=True,
            published={"car": "car_coco"}, presets={"car": "coco", "segclip": "coco"},
        ),
        _semantic("coco_stuff", "coco_stuff", "coco_stuff171", split="coco_stuff_156_15"),
        _semantic(
            "ade150", "ade", "ade150", published={"car": "car_ade150"}, presets={"car": "ade_150"}
        ),
        _semantic(
            "ade847", "ade847", "ade847", split="ade847_572_275", presets={"car": "ade_847"}
        ),
        _semantic("cityscapes", "cityscapes", "cityscapes19"),
        *_referring(),
    )
}  # fmt: skip
"""Name -> benchmark. "miniature" and folders of the user's own are made when they are asked for."""


def benchmark(name: str, also: Iterable[str] = ("miniature",)) -> Benchmark:
    """Finds a benchmark.

    Args:
        name: of a data set's benchmark. also: names found elsewhere, to offer for a wrong one.
    Raises:
        UserError: for an unknown name, with the nearest one; what looks like a path is a folder
            that is not there.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if "/" in name or os.sep in name:
        raise UserError(f"benchmark: there is no folder {name}; {nearest_path(Path(name))}")
    own = (path.parent.name for path in Path().glob("*/classes.txt"))
    unknown_name(name, (*BENCHMARKS, *also, *own), "benchmark")


def own_benchmark(folder: Path) -> Benchmark:
    """Makes a benchmark of a user's own set.

    Args:
        folder: with images/, labels/ and classes.txt; a first class "background" is one.
    Raises:
        UserError: when one of the three is not there, or the classes cannot be read.
    """
    names = tuple(read_labels(own_parts(folder)[2]))
    background = bool(names) and names[0].casefold() == "background"
    classes = names[1:] if background else names
    return Benchmark(folder.resolve().name, "folder", background=background, classes=classes)


def texts(variant: str) -> Texts:
    """Reads a vocabulary's texts, without its background.

    Raises:
        UserError: for an unknown name, with the nearest one.
    """
    found = vocabulary(variant)
    stuff = None if found.things is None else ~np.array(found.things)
    return Texts(variant, found.foreground, stuff)


def texts_for(bench: Benchmark, method: str, variant: str | None = None) -> Texts:
    """Chooses the texts that a method is given for a benchmark.

    Args:
        bench: the benchmark. method: the method's name.
        variant: a vocabulary's name; "plain" for the data set's own names; None for those of the
            method's published number, or the plain ones where it has none.
    Returns:
        one text a class.
    Raises:
        UserError: for a vocabulary that is unknown, or of other classes.
    """
    if variant is None:
        variant = bench.published.get(method, "plain")
    if variant == "plain":
        return bench.plain
    if variant not in vocabulary_names():
        unknown_name(variant, ("plain", *vocabulary_names()), "--names")
    found, count = texts(variant), len(bench.plain.names)
    if len(found.names) != count:
        raise UserError(
            f"--names: expected {count} texts, one for each class of {bench.name}, got "
            f"{len(found.names)} of {variant!r}; try {bench.vocabulary or 'plain'}"
        )
    return found

"""The data sets that evaluation knows: facts about each, and how its files lie in other projects.

mmsegmentation and detectron2 number the same labels in ways of their own; a `Layout` says where
such files lie and what their values mean. The pictures are those that numbers are published on
(validation in most cases).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from openseg_jax.errors import unknown_name
from openseg_jax.inputs.augment import IGNORE
from openseg_jax.inputs.vocabularies import Vocabulary, vocabulary
from openseg_jax.types import Int

__all__ = ["DATA_SETS", "UNKNOWN", "DataSet", "Layout", "data_set", "value_table"]

UNKNOWN = -2
"""In a table of values: no file of the data set may hold this value."""

Values = Mapping[int, int]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a data set's files lie, and what the values in its label maps mean.

    Folders are tried in order. The part before "|" may be missing from the left: the root may be
    given as the folder that holds VOCdevkit, as VOCdevkit, or as VOC2012.

    Attributes:
        style: "official", "mmsegmentation" or "detectron2".
        images: folders of pictures.
        labels: folders of label maps.
        values: makes the mapping of a value in the files to a class of the data set.
        image_end: what a picture's file name has beyond the item's name.
        label_end: the same of its label map.
        lists: files that name the items, a name in a line; none of them: each label map is one.
        ignored: values that mean "not labelled".
        not_ends: label maps with such names belong to another layout.
        lacks_background: whether background pixels are "not labelled" here.
    """

    style: str
    images: tuple[str, ...]
    labels: tuple[str, ...]
    values: Callable[[], Values]
    image_end: str = ".jpg"
    label_end: str = ".png"
    lists: tuple[str, ...] = ()
    ignored: tuple[int, ...] = (255,)
    not_ends: tuple[str, ...] = ()
    lacks_background: bool = False

    def table(self) -> Int[np.ndarray, "V"]:
        """Makes the table of values, see `value_table`."""
        return value_table(self.values(), self.ignored)


@dataclasses.dataclass(frozen=True)
class DataSet:
    """What is known about a data set of label maps.

    Attributes:
        name: as it is called on the command line.
        title: as people call it.
        words: vocabulary that spells all of its classes, background included where it has one.
        counts: numbers of pictures that results are published on.
        get: where the files come from, for people.
        layouts: how the files lie, most specific first.
    """

    name: str
    title: str
    words: str
    counts: tuple[int, ...]
    get: str
    layouts: tuple[Layout, ...]

    @property
    def vocabulary(self) -> Vocabulary:
        """The class list, with source and licence."""
        return vocabulary(self.words)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes; the first is "background" where `background` is true."""
        return self.vocabulary.names

    @property
    def background(self) -> bool:
        """Whether class 0 is what no other class covers."""
        return self.classes[0] == "background"


def value_table(values: Values, ignored: Iterable[int]) -> Int[np.ndarray, "V"]:
    """Makes the table that turns values of a label map into classes.

    Args:
        values: value -> class.
        ignored: values that mean "not labelled".

    Returns:
        Int32[V], V = 256 for 8-bit files or 65536 for 16-bit ones: class, `IGNORE` or `UNKNOWN`.
    """
    ignored = tuple(ignored)
    size = 256 if max(*values, *ignored) < 256 else 65536
    table = np.full(size, UNKNOWN, np.int32)
    table[list(ignored)] = IGNORE
    table[list(values)] = list(values.values())
    return table


def data_set(name: str) -> DataSet:
    """Finds a data set by name.

    Raises:
        UserError: for an unknown name, with the nearest one.
    """
    if name not in DATA_SETS:
        unknown_name(name, DATA_SETS, "data set")
    return DATA_SETS[name]


def _run(count: int, value: int = 0, first: int = 0) -> Values:
    """`count` classes from `first` on, in the order of their values from `value` on."""
    return {value + i: first + i for i in range(count)}


def _raw(words: str) -> Values:
    raw = vocabulary(words).raw
    assert raw is not None
    return {value: index for index, value in enumerate(raw)}


def _things_of_stuff() -> Values:
    """COCO-Stuff's values: category - 1 for things; stuff and "not labelled" are background."""
    things = {value - 1: index for value, index in _raw("coco_object81").items() if index}
    return {**dict.fromkeys([*range(91, 182), 255], 0), **things}


def _background_last() -> Values:
    return {**_run(20, first=1), 20: 0}


_part = functools.partial
_VOC, _CONTEXT = "VOCdevkit/VOC2012|", "VOCdevkit/VOC2010|"
_VOC_IMAGES = (
    _VOC + "JPEGImages",
    _VOC + "images_detectron2/val",
    "pascal_voc_d2|images/validation",
)
_CONTEXT_IMAGES = (
    _CONTEXT + "JPEGImages", _CONTEXT + "val/image", _CONTEXT + "images/val",
    "pascal_ctx_d2|images/validation",
)  # fmt: skip
_COCO_IMAGES = ("coco|val2017", "coco|images/val2017", "coco_stuff164k|images/val2017",
                "coco_object|images/val2017")  # fmt: skip
_DERIVED = ("_labelTrainIds", "_instanceTrainIds", "_labelIds")
_STUFF_LABELS = (
    "coco|stuffthingmaps/val2017", "coco|stuffthingmaps_trainval2017/val2017",
    "coco_stuff164k|annotations/val2017",
)  # fmt: skip
# Gaps in COCO-Stuff's numbering; no pixel should have them, and readers ignore them.
_STUFF_GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
_CITY = "cityscapes|leftImg8bit/val"

_SETS = (
    DataSet(
        "voc", "PASCAL VOC 2012", "voc21", (1449,),
        "VOCtrainval_11-May-2012.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        (
            Layout(
                "official", _VOC_IMAGES, (_VOC + "SegmentationClass",), _part(_run, 21),
                lists=(_VOC + "ImageSets/Segmentation/val.txt",),
            ),
            Layout(
                "detectron2", _VOC_IMAGES, ("pascal_voc_d2|annotations_pascal21/validation",),
                _part(_run, 21),
            ),
            Layout(
                "detectron2", _VOC_IMAGES, (_VOC + "annotations_detectron2_bg/val",),
                _background_last,
            ),
            Layout(
                "detectron2", _VOC_IMAGES,
                (_VOC + "annotations_detectron2/val", _VOC + "annotations_ovs/val",
                 "pascal_voc_d2|annotations_pascal20/validation"),
                _part(_run, 20, first=1), lacks_background=True,
            ),
        ),
    ),
    DataSet(
        "context", "PASCAL Context", "pc60", (5104, 5105),
        "VOCtrainval_03-May-2010.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2010/ and "
        "trainval_merged.json of the Detail API (https://hangzhang.org/detail-api)",
        (
            Layout(
                "mmsegmentation", _CONTEXT_IMAGES, (_CONTEXT + "SegmentationClassContext",),
                _part(_run, 60), lists=(_CONTEXT + "ImageSets/SegmentationContext/val.txt",),
            ),
            Layout(
                "detectron2", _CONTEXT_IMAGES,
                (_CONTEXT + "annotations_detectron2/pc59_val",
                 _CONTEXT + "annotations_detectron2_ovs/pc59_val",
                 "pascal_ctx_d2|annotations_ctx59/validation"),
                _part(_run, 59, first=1), lacks_background=True,
            ),
        ),
    ),
    DataSet(
        "context459", "PASCAL Context, all 459 classes", "pc459", (5104, 5105),
        "VOCtrainval_03-May-2010.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2010/ and "
        "trainval.tar.gz from https://cs.stanford.edu/~roozbeh/pascal-context/",
        (
            Layout(
                "detectron2", _CONTEXT_IMAGES,
                (_CONTEXT + "annotations_detectron2/pc459_val",
                 _CONTEXT + "annotations_detectron2_ovs/pc459_val",
                 "pascal_ctx_d2|annotations_ctx459/validation"),
                _part(_run, 459), label_end=".tif", ignored=(65535,),
            ),
        ),
    ),
    DataSet(
        "coco_object", "COCO-Object", "coco_object81", (5000,),
        "val2017.zip from https://cocodataset.org/#download, and stuffthingmaps_trainval2017.zip "
        "from https://github.com/nightrome/cocostuff (as published numbers) or "
        "annotations_trainval2017.zip of COCO",
        (
            Layout(
                "mmsegmentation", _COCO_IMAGES,
                ("coco_object|annotations/val2017", "coco_stuff164k|annotations/val2017"),
                _part(_run, 81), label_end="_instanceTrainIds.png",
            ),
            # What those files are made of, by GroupViT's converter: COCO-Stuff's PNGs.
            Layout(
                "official", _COCO_IMAGES, _STUFF_LABELS, _things_of_stuff, not_ends=_DERIVED,
                ignored=_STUFF_GAPS,
            ),
        ),
    ),
    DataSet(
        "coco_stuff", "COCO-Stuff 164k", "coco_stuff171", (5000,),
        "val2017.zip from https://cocodataset.org/#download and stuffthingmaps_trainval2017.zip "
        "from https://github.com/nightrome/cocostuff",
        (
            Layout(
                "mmsegmentation", _COCO_IMAGES, ("coco_stuff164k|annotations/val2017",),
                _part(_run, 171), label_end="_labelTrainIds.png",
            ),
            Layout(
                "detectron2", _COCO_IMAGES, ("coco|stuffthingmaps_detectron2/val2017",),
                _part(_run, 171),
            ),
            Layout(
                "official", _COCO_IMAGES,
                _STUFF_LABELS, _part(_raw, "coco_stuff171"), not_ends=_DERIVED,
                ignored=(255, *_STUFF_GAPS),
            ),
        ),
    ),
    DataSet(
        "ade", "ADE20K, 150 classes", "ade150", (2000,),
        "ADEChallengeData2016.zip from http://sceneparsing.csail.mit.edu",
        (
            Layout(
                "detectron2", ("ade/ADEChallengeData2016|images/validation",),
                ("ade/ADEChallengeData2016|annotations_detectron2/validation",), _part(_run, 150),
            ),
            Layout(
                "official", ("ade/ADEChallengeData2016|images/validation",),
                ("ade/ADEChallengeData2016|annotations/validation",), _part(_run, 150, 1),
                ignored=(0, 255),
            ),
        ),
    ),
    DataSet(
        "ade847", "ADE20K, 847 classes", "ade847", (2000,),
        "ADE20K_2021_17_01.zip, by request at https://groups.csail.mit.edu/vision/datasets/ADE20K/",
        (
            Layout(
                "detectron2",
                ("ade/ADE20K_2021_17_01|images_detectron2/validation",
                 "ade/ADE20K_2021_17_01|images/validation"),
                ("ade/ADE20K_2021_17_01|annotations_detectron2/validation",), _part(_run, 847),
                label_end=".tif", ignored=(65535,),
            ),
        ),
    ),
    DataSet(
        "cityscapes", "Cityscapes", "cityscapes19", (500,),
        "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from "
        "https://www.cityscapes-dataset.com, after registration",
        (
            Layout(
                "mmsegmentation", (_CITY,), ("cityscapes|gtFine/val",), _part(_run, 19),
                image_end="_leftImg8bit.png", label_end="_gtFine_labelTrainIds.png",
            ),
            Layout(
                "official", (_CITY,), ("cityscapes|gtFine/val",), _part(_raw, "cityscapes19"),
                image_end="_leftImg8bit.png", label_end="_gtFine_labelIds.png",
                # Licence plates are -1, which the files hold as 255.
                ignored=(*range(34), 255),
            ),
        ),
    ),
)  # fmt: skip

DATA_SETS: Mapping[str, DataSet] = {found.name: found for found in _SETS}
"""Data sets of label maps by name."""

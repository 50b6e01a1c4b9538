"""Recipes of the data sets that come as label maps: their values become classes.

| data set | values in the official files | become |
|---|---|---|
| voc | 0 background, 1 to 20, 255 void | 0 to 20, not labelled |
| ade | 0 other, 1 to 150 | not labelled, 0 to 149 |
| cityscapes | labelIds 0 to 33, licence plates 255 | the benchmark's 19, else not labelled |
| coco_stuff | 0 to 181 with 11 gaps, 255 | 0 to 170, not labelled |

Folders that mmsegmentation or detectron2 prepared will do as well, see `inputs.data_sets`.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from openseg_jax.data.prepare.base import Archive, Job, Recipe, described

from openseg_jax.inputs import label_layouts
from openseg_jax.inputs.data_sets import data_set
from openseg_jax.inputs.labelled_set import read_classes
from openseg_jax.types import Int

__all__ = ["ADE", "CITYSCAPES", "COCO_STUFF", "VOC", "jobs_of_layout", "labels_of_layout"]


def jobs_of_layout(name: str, root: Path) -> list[Job]:
    """Lists the label maps of a data set in the first layout that is there and whole.

    Raises:
        UserError: when there is none, or files are missing.
    """
    facts = data_set(name)
    found = label_layouts.find(facts, root, whole=True)
    data = (name, facts.layouts.index(found.layout))
    return [Job(key, image, (*data, labels)) for key, image, labels in found.files]


def labels_of_layout(job: Job) -> Int[np.ndarray, "H W"] | None:
    """Reads the label map of a job; None where nothing in it is labelled.

    Raises:
        UserError: naming the file, for values that are not the data set's.
    """
    name, index, path = job.data
    labels = read_classes(path, _table(name, index), data_set(name).title)
    return labels if (labels >= 0).any() else None


@functools.cache
def _table(name: str, index: int) -> Int[np.ndarray, "V"]:
    return data_set(name).layouts[index].table()


def _recipe(name: str, *archives: Archive) -> Recipe:
    return described(name, archives, functools.partial(jobs_of_layout, name), labels_of_layout)


VOC = _recipe(
    "voc",
    Archive(
        "VOCtrainval_11-May-2012*.tar",
        ("*/JPEGImages/*", "*/SegmentationClass/*", "*/ImageSets/Segmentation/*"),
    ),
)
ADE = _recipe("ade", Archive("ADEChallengeData2016*.zip"))
CITYSCAPES = _recipe(
    "cityscapes",
    Archive("leftImg8bit_trainvaltest*.zip", ("*/val/*",)),
    Archive("gtFine_trainvaltest*.zip", ("*/val/*_labelIds.png",)),
)
COCO_STUFF = _recipe(
    "coco_stuff",
    Archive("val2017*.zip"),
    Archive("stuffthingmaps_trainval2017*.zip", ("*val2017/*",)),
)

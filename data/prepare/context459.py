"""PC-459: PASCAL Context with all 459 classes of its MATLAB files.

The pictures are those of PC-59's validation, which trainval_merged.json or mmsegmentation's list
names; the MATLAB files cover the training pictures too, and the list that belonged to them is no
longer offered.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from openseg_jax.data.prepare import context
from openseg_jax.data.prepare.base import Archive, Job, described
from openseg_jax.data.prepare.context_mat import read_label_mat

from openseg_jax.errors import UserError
from openseg_jax.inputs.data_sets import data_set
from openseg_jax.inputs.label_layouts import find_path, read_list
from openseg_jax.types import Int

__all__ = ["RECIPE"]

_FACTS = data_set("context459")
_VOC = "VOCdevkit/VOC2010|"
_IMAGES = (_VOC + "JPEGImages",)
_MATS = ("pascal_context|trainval", _VOC + "trainval", _VOC + "pascal_context/trainval")
_LISTS = (_VOC + "ImageSets/SegmentationContext/val.txt",)


def _examples(root: Path) -> Sequence[Job]:
    images, mats = find_path(root, _IMAGES, ".jpg"), find_path(root, _MATS, ".mat")
    if images is None or mats is None:
        lacks = "VOCdevkit/VOC2010/JPEGImages" if images is None else "trainval/*.mat"
        raise UserError(f"{root}: holds no {lacks}; put {_FACTS.get} there")
    jobs = [Job(name, images / f"{name}.jpg", mats / f"{name}.mat") for name in _names(root)]
    missing = [job for job in jobs if not job.data.is_file()]
    if missing:
        raise UserError(
            f"{missing[0].data}: the file is missing ({len(missing)} of {len(jobs)} are); "
            "unpack the archive again"
        )
    return jobs


def _names(root: Path) -> list[str]:
    listed = find_path(root, _LISTS)
    names = read_list(listed) if listed else [job.name for job in context.examples(root)]
    return sorted(names)


def _make(job: Job) -> Int[np.ndarray, "H W"]:
    # Value 0 is not labelled, value k is class k - 1.
    return read_label_mat(job.data, len(_FACTS.classes)) - 1


RECIPE = described(
    "context459",
    (*context.RECIPE.archives, Archive("trainval.tar.gz", ("*.mat",))),
    _examples,
    _make,
)

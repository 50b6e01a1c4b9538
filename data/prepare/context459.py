"""PC-459: PASCAL Context with all 459 classes of its MATLAB files.

The pictures are those of PC-59's validation list; the MATLAB files cover the training pictures
too, and the list that belonged to them is no longer offered.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from openseg_jax.data.prepare.base import Archive, Job, described
from openseg_jax.data.prepare.coco_annotations import read_json
from openseg_jax.data.prepare.context_mat import read_label_mat

from openseg_jax.errors import UserError, expected
from openseg_jax.inputs.data_sets import data_set
from openseg_jax.inputs.label_layouts import find_path, read_list
from openseg_jax.types import Int

__all__ = ["RECIPE"]

_FACTS = data_set("context459")
_VOC = "VOCdevkit/VOC2010|"
_IMAGES = (_VOC + "JPEGImages",)
_MATS = ("pascal_context|trainval", _VOC + "trainval", _VOC + "pascal_context/trainval")
_LISTS = (_VOC + "ImageSets/SegmentationContext/val.txt",)
_JSON = (_VOC + "trainval_merged.json",)


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
    if listed is not None:
        return sorted(read_list(listed))
    path = find_path(root, _JSON)
    if path is None:
        raise UserError(
            f"{root}: holds no list of the validation pictures, trainval_merged.json or "
            f"ImageSets/SegmentationContext/val.txt; put {data_set('context').get} there"
        )
    try:
        rows = [row for row in read_json(path)["images"] if row["phase"] == "val"]
        return sorted(Path(row["file_name"]).stem for row in rows)
    except (KeyError, TypeError) as error:
        raise expected(
            str(path), "images with file_name and phase", f"a file without {error}",
            "get trainval_merged.json again",
        ) from error  # fmt: skip


def _make(job: Job) -> Int[np.ndarray, "H W"]:
    # Value 0 is not labelled, value k is class k - 1.
    return read_label_mat(job.data, len(_FACTS.classes)) - 1


RECIPE = described(
    "context459",
    (
        Archive(
            "VOCtrainval_03-May-2010*.tar",
            ("*/JPEGImages/*", "*/ImageSets/SegmentationContext/*"),
        ),
        Archive("trainval.tar.gz", ("*.mat",)),
    ),
    _examples,
    _make,
)

"""RefCOCO, RefCOCO+ and RefCOCOg: objects in COCO's pictures, and what people call them.

One prepared set has all splits. The partition is UNC's for RefCOCO and RefCOCO+, and UMD's for
RefCOCOg; there Google's is added as the splits google_train and google_val where its file lies
beside the other.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openseg_jax.data.prepare.base import Archive, Job, Recipe
from openseg_jax.data.prepare.coco_annotations import instance_mask, read_instances
from openseg_jax.data.prepare.referring_rows import Ref, read_refs

from openseg_jax.errors import UserError
from openseg_jax.inputs.label_layouts import find_path
from openseg_jax.ops import rle

__all__ = ["REFCOCO", "REFCOCOG", "REFCOCO_PLUS"]

_IMAGES = ("coco|train2014", "coco|images/train2014", "images|mscoco/images/train2014")
_PARTITIONS = {
    "refcoco": {"": "unc"},
    "refcoco+": {"": "unc"},
    "refcocog": {"": "umd", "google_": "google"},
}


def _examples(name: str, root: Path) -> Sequence[Job]:
    partitions = _PARTITIONS[name]
    file = f"refs({partitions['']}).p"
    # The folder tells the sets apart: their files have the same names.
    refs = find_path(root, (f"refer/data|{name}/{file}",))
    if refs is None:
        raise UserError(f"{root}: holds no {name}/{file}; put {_get(name)} there")
    images = find_path(root, _IMAGES, ".jpg")
    if images is None:
        raise UserError(f"{root}: holds no train2014/*.jpg; put {_get(name)} there")
    pictures, annotations = read_instances(refs.parent / "instances.json")
    outlines = {row["id"]: row for row in annotations}
    jobs = []
    for prefix, partition in partitions.items():
        path = refs.with_name(f"refs({partition}).p")
        if prefix and not path.exists():
            continue
        for ref in read_refs(path):
            row = outlines.get(ref.annotation)
            if row is None or row["image_id"] != ref.picture:
                raise UserError(
                    f"{path}: reference {ref.number} is to annotation {ref.annotation} of picture "
                    f"{ref.picture}, which {refs.with_name('instances.json')} does not have; the "
                    "two belong to different sets: unpack the archive again"
                )
            jobs.append(_job(prefix, ref, images, pictures[ref.picture], row))
    # Training last, so that --limit leaves something to evaluate.
    return sorted(jobs, key=lambda job: job.extra["split"].endswith("train"))


def _job(prefix: str, ref: Ref, images: Path, picture: Mapping[str, Any], row: Any) -> Job:
    outline = {"id": row["id"], "segmentation": row["segmentation"]}
    return Job(
        f"{prefix}{ref.picture}_{ref.number}",
        images / Path(picture["file_name"]).name,
        ((picture["height"], picture["width"]), outline),
        {"split": prefix + ref.split, "texts": list(ref.texts)},
    )


def _make(job: Job) -> Mapping[str, Any]:
    size, outline = job.data
    found = instance_mask(outline, size)
    row = {"height": size[0], "width": size[1], "mask": rle.encode(found.mask)}
    return row if found.twice is None else row | {"twice": rle.encode(found.twice)}


def _get(name: str) -> str:
    return (
        f"train2014.zip from https://cocodataset.org/#download and {name}.zip (for its addresses "
        "see https://github.com/lichengunc/refer)"
    )


def _recipe(name: str, title: str, who: str, counts: Mapping[str, tuple[int, int]]) -> Recipe:
    return Recipe(
        name=name, title=title, task="referring", vocabulary="", classes=(), background=False,
        source=f"{who}, on pictures and instances of COCO 2014; published counts as in TensorFlow "
        "Datasets' catalogue (ref_coco)",
        licence="expressions Apache 2.0, instances CC BY 4.0; pictures under Flickr's terms of use",
        counts=(), get=_get(name),
        archives=(Archive("train2014*.zip"), Archive(f"{name}.zip")),
        examples=functools.partial(_examples, name), make=_make, splits=counts,
    )  # fmt: skip


# Objects and pictures of each split, as TensorFlow Datasets' catalogue counts them (ref_coco); the
# sums over the splits are the numbers of the papers: 50,000, 49,856 and 49,822 objects.
REFCOCO = _recipe(
    "refcoco", "RefCOCO", "Kazemzadeh et al. 2014, Yu et al. 2016",
    {"train": (42404, 16994), "val": (3811, 1500), "testA": (1975, 750), "testB": (1810, 750)},
)  # fmt: skip
REFCOCO_PLUS = _recipe(
    "refcoco+", "RefCOCO+", "Kazemzadeh et al. 2014, Yu et al. 2016",
    {"train": (42278, 16992), "val": (3805, 1500), "testA": (1975, 750), "testB": (1798, 750)},
)  # fmt: skip
REFCOCOG = _recipe(
    "refcocog", "RefCOCOg", "Mao et al. 2016, Nagaraja et al. 2016",
    {
        "train": (42226, 21899), "val": (2573, 1300), "test": (5023, 2600),
        "google_train": (44822, 24698), "google_val": (5000, 4650),
    },
)  # fmt: skip

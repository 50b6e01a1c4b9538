"""COCO-Object: COCO's 80 things drawn into one label map a picture.

Published numbers use maps that GroupViT's converter makes of COCO-Stuff's PNGs; where those PNGs
lie, labels are made of them. Else COCO's own instances will do; where instances overlap the two
differ. dataset.json says which it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from openseg_jax.data.prepare.base import Archive, Job, described
from openseg_jax.data.prepare.coco_annotations import instance_mask, read_instances
from openseg_jax.data.prepare.label_maps import COCO_STUFF, jobs_of_layout, labels_of_layout

from openseg_jax.errors import UserError, expected
from openseg_jax.inputs.data_sets import data_set
from openseg_jax.inputs.label_layouts import find_path
from openseg_jax.types import Int

__all__ = ["RECIPE"]

_FACTS = data_set("coco_object")
_IMAGES = ("coco|val2017", "coco|images/val2017")
_INSTANCES = ("coco|annotations/instances_val2017.json", "coco|instances_val2017.json")


def _examples(root: Path) -> Sequence[Job]:
    source = _FACTS.vocabulary.source
    for layout in _FACTS.layouts:
        if find_path(root, layout.labels, layout.label_end, layout.not_ends):
            how = f"{source}; things of COCO-Stuff's maps, as by GroupViT's converter"
            jobs = jobs_of_layout(_FACTS.name, root)
            return [dataclasses.replace(job, extra={"source": how}) for job in jobs]
    how = f"{source}; instances in file order, the first one wins"
    return [dataclasses.replace(job, extra={"source": how}) for job in _instances(root)]


def _instances(root: Path) -> Sequence[Job]:
    images = find_path(root, _IMAGES, ".jpg")
    instances = find_path(root, _INSTANCES)
    if images is None or instances is None:
        lacks = "val2017/*.jpg" if images is None else "annotations/instances_val2017.json"
        raise UserError(f"{root}: holds no {lacks}; put {_FACTS.get} there")
    pictures, annotations = read_instances(instances)
    classes = {raw: index for index, raw in enumerate(_FACTS.vocabulary.raw or ()) if index}
    drawn: dict[int, list[tuple[int, object]]] = {number: [] for number in pictures}
    # Crowds fill what no single instance covers.
    for row in sorted(annotations, key=lambda row: bool(row.get("iscrowd"))):
        if row["category_id"] not in classes:
            raise expected(
                str(instances), "categories of COCO's 80 things",
                f"category {row['category_id']} of annotation {row['id']}",
                "name COCO's own instances_val2017.json",
            )  # fmt: skip
        outline = {"id": row["id"], "segmentation": row["segmentation"]}
        drawn[row["image_id"]].append((classes[row["category_id"]], outline))
    return [
        Job(
            Path(row["file_name"]).stem,
            images / Path(row["file_name"]).name,
            ((row["height"], row["width"]), drawn[number]),
        )
        for number, row in sorted(pictures.items())
    ]


def _make(job: Job) -> Int[np.ndarray, "H W"] | None:
    """Reads a map, or draws the instances in the order of the file: a pixel keeps the first.

    Source: of that order, Encoding's and GluonCV's readers of COCO.
    """
    if job.data[0] == _FACTS.name:
        return labels_of_layout(job)
    size, outlines = job.data
    labels = np.zeros(size, np.int32)
    for index, outline in outlines:
        mask = instance_mask(outline, size).mask
        labels[mask & (labels == 0)] = index
    return labels


RECIPE = described(
    "coco_object",
    (
        *COCO_STUFF.archives,
        Archive("annotations_trainval2017*.zip", ("*/instances_val2017.json",)),
    ),
    _examples,
    _make,
)

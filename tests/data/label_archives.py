"""Writes small archives of the data sets that come as label maps, and of PASCAL Context."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from openseg_jax.inputs.augment import IGNORE
from openseg_jax.inputs.data_sets import data_set
from openseg_jax.ops import rle
from tests.data import official

Truth = dict[str, np.ndarray]


def palette_png(values: np.ndarray) -> bytes:
    """As VOC's: indexes into a palette."""
    image = Image.fromarray(values.astype(np.uint8), "P")
    image.putpalette(list(np.random.default_rng(0).integers(0, 256, 768)))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def grey_png(values: np.ndarray) -> bytes:
    return official.encoded(values.astype(np.uint8), "PNG")


def drawn(values: list[int], i: int) -> np.ndarray:
    return np.random.default_rng(i).choice(values, (11 + i % 5, 14))


def voc(root: Path, count: int = 3) -> Truth:
    top, files, truth = "VOCdevkit/VOC2012/", {}, {}
    for i in range(count + 1):
        name, values = f"2007_{i:06d}", drawn([*range(21), 255], i)
        files[f"{top}JPEGImages/{name}.jpg"] = official.picture(values.shape, i)
        files[f"{top}SegmentationClass/{name}.png"] = palette_png(values)
        files[f"{top}Annotations/{name}.xml"] = b"<a/>"
        truth[name] = np.where(values == 255, IGNORE, values)
    truth.popitem()  # of the training split
    listed = "".join(f"{name}\n" for name in truth).encode()
    files[f"{top}ImageSets/Segmentation/val.txt"] = listed
    official.write_tar(root / "VOCtrainval_11-May-2012.tar", files)
    return truth


def ade(root: Path, count: int = 3) -> Truth:
    top, files, truth = "ADEChallengeData2016/", {}, {}
    for i in range(count):
        name, values = f"ADE_val_{i + 1:08d}", drawn(list(range(151)), i)
        files[f"{top}images/validation/{name}.jpg"] = official.picture(values.shape, i)
        files[f"{top}annotations/validation/{name}.png"] = grey_png(values)
        truth[name] = values - 1
    files[f"{top}images/training/ADE_train_00000001.jpg"] = b"not read"
    official.write_zip(root / "ADEChallengeData2016.zip", files)
    return truth


def cityscapes(root: Path, count: int = 3) -> Truth:
    raw = data_set("cityscapes").vocabulary.raw
    pictures, labels, truth = {"README": b""}, {"README": b""}, {}
    for i in range(count):
        city = ("frankfurt", "lindau")[i % 2]
        name, values = f"{city}_000000_{i:06d}", drawn([*range(34), 255], i)
        pixels = official.picture(values.shape, i, "PNG")
        pictures[f"leftImg8bit/val/{city}/{name}_leftImg8bit.png"] = pixels
        labels[f"gtFine/val/{city}/{name}_gtFine_labelIds.png"] = grey_png(values)
        labels[f"gtFine/val/{city}/{name}_gtFine_instanceIds.png"] = b"not read"
        truth[name] = np.array([[raw.index(v) if v in raw else IGNORE for v in r] for r in values])
    labels["gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"] = b"not read"
    official.write_zip(root / "leftImg8bit_trainvaltest.zip", pictures)
    official.write_zip(root / "gtFine_trainvaltest.zip", labels)
    return truth


def coco_stuff(root: Path, count: int = 3) -> Truth:
    raw = data_set("coco_stuff").vocabulary.raw
    pictures, labels, truth = {}, {}, {}
    for i in range(count):
        name, values = f"{i + 139:012d}", drawn([*raw, 255], i)
        pictures[f"val2017/{name}.jpg"] = official.picture(values.shape, i)
        labels[f"val2017/{name}.png"] = grey_png(values)
        truth[name] = np.array([[raw.index(v) if v in raw else IGNORE for v in r] for r in values])
    empty = f"{138:012d}"  # a picture without any label is left out
    pictures[f"val2017/{empty}.jpg"] = official.picture((5, 6), 0)
    labels[f"val2017/{empty}.png"] = grey_png(np.full((5, 6), 255))
    labels["train2017/000000000009.png"] = b"not read"
    official.write_zip(root / "val2017.zip", pictures)
    official.write_zip(root / "stuffthingmaps_trainval2017.zip", labels)
    return truth


def context(root: Path, count: int = 3) -> Truth:
    """trainval_merged.json: masks that overlap, so that their order matters."""
    raw = data_set("context").vocabulary.raw
    images, annotations, truth = [], [], {}
    for i in range(count + 1):
        name, size, rng = f"2008_{i:06d}", (12 + i % 5, 15), np.random.default_rng(i)
        values = np.zeros(size, np.int64)
        for j in range(5):
            mask, category = rng.random(size) < 0.3, int(rng.choice(raw[1:]))
            values[mask] = raw.index(category)
            annotations.append(
                {
                    "segmentation": rle.encode(mask), "category_id": category, "id": 10 * i + j,
                    "image_id": 2008000000 + i, "iscrowd": 0, "area": int(mask.sum()), "parts": [],
                }
            )  # fmt: skip
        images.append(
            {
                "file_name": f"{name}.jpg", "phase": "val" if i < count else "train",
                "height": size[0], "width": size[1], "image_id": 2008000000 + i,
            }
        )  # fmt: skip
        truth[name] = values
    sizes = {name: values.shape for name, values in truth.items()}
    truth.popitem()
    official.write_tar(root / "VOCtrainval_03-May-2010.tar", official.voc2010(sizes))
    order = np.random.default_rng(0).permutation(len(annotations))
    # Pictures' masks stay in order; pictures may come in any.
    rank = {int(a): int(np.flatnonzero(order == a)[0]) for a in range(len(annotations))}
    annotations.sort(key=lambda row: (rank[row["image_id"] % 1000], row["id"]))
    (root / "trainval_merged.json").write_text(
        json.dumps(
            {
                "info": {"name": "merged", "list": [1, [2]]}, "images": images,
                "annos_segmentation": annotations, "annos_occlusion": [],
                "categories": [{"category_id": c} for c in raw], "licenses": [],
            }
        )
    )  # fmt: skip
    return truth


WRITERS = {
    "voc": voc, "ade": ade, "cityscapes": cityscapes, "coco_stuff": coco_stuff, "context": context,
}  # fmt: skip

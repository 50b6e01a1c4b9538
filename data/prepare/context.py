"""PASCAL Context with 59 classes and background, from the Detail API's annotation file.

trainval_merged.json holds masks of the 59 classes as run lengths, for training and validation
pictures alike; label maps are made by painting a picture's masks in the file's order, later ones
over earlier. Validation is the pictures whose "phase" is "val".

Source: the Detail API's `getMask` and mmsegmentation's converter, which numbers the classes by the
rank of their category. Other categories count as background; both fail on them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from json.decoder import WHITESPACE  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

import numpy as np
from openseg_jax.data.prepare.base import Archive, Job, described
from openseg_jax.data.prepare.label_maps import jobs_of_layout, labels_of_layout

from openseg_jax.errors import UserError, expected
from openseg_jax.inputs.data_sets import data_set
from openseg_jax.inputs.label_layouts import find_path
from openseg_jax.ops import rle
from openseg_jax.types import Int

__all__ = ["RECIPE", "examples", "items_of", "make"]

_JSON = ("VOCdevkit/VOC2010|trainval_merged.json",)
_IMAGES = ("VOCdevkit/VOC2010|JPEGImages", "VOCdevkit/VOC2010|val/image")
_CATEGORIES = 460  # of PASCAL Context in all, 0 included


def examples(root: Path) -> list[Job]:
    """Lists the validation pictures, with their masks.

    Without the annotation file, label maps that mmsegmentation made from it will do.

    Raises:
        UserError: when something is missing or the annotation file is damaged.
    """
    path = find_path(root, _JSON)
    if path is None:
        return jobs_of_layout("context", root)
    images = find_path(root, _IMAGES, ".jpg")
    if images is None:
        raise UserError(
            f"{root}: there is {path} but no VOCdevkit/VOC2010/JPEGImages with the pictures; put "
            f"VOCtrainval_03-May-2010.tar there and run the same command again"
        )
    found, masks = _read(path)
    jobs = [
        Job(Path(name).stem, images / name, (path.name, height, width, tuple(masks[key])))
        for key, (name, height, width) in sorted(found.items(), key=lambda item: item[1])
        if key in masks
    ]
    if not jobs:
        raise expected(str(path), 'pictures of the phase "val"', "none", "download it again")
    missing = [job.image for job in jobs if not job.image.is_file()]
    if missing:
        raise UserError(
            f"{missing[0]}: the picture is missing ({len(missing)} of {len(jobs)} are); unpack "
            "VOCtrainval_03-May-2010.tar again"
        )
    return jobs


def make(job: Job) -> Int[np.ndarray, "H W"] | None:
    """Paints the masks of a picture.

    Raises:
        UserError: for masks of another size or categories that do not exist.
    """
    if len(job.data) == 3:
        return labels_of_layout(job)
    source, height, width, masks = job.data
    classes = _class_of_category()
    labels = np.zeros((height, width), np.uint8)
    for category, size, counts in masks:
        if tuple(size) != (height, width):
            raise expected(
                f"{source}: a mask of {job.name}", f"{width}x{height}", f"{size[1]}x{size[0]}",
                "the file is damaged: download it again",
            )  # fmt: skip
        if not 0 <= category < _CATEGORIES:
            raise expected(
                f"{source}: category_id of {job.name}", f"0 to {_CATEGORIES - 1}", str(category),
                "the file is not PASCAL Context's: download it again",
            )  # fmt: skip
        try:
            labels[rle.decode({"size": size, "counts": counts})] = classes[category]
        except UserError as error:
            raise UserError(f"{source}: a mask of {job.name} is damaged; {error}") from error
    return labels


@functools.cache
def _class_of_category() -> Int[np.ndarray, "V"]:
    table = np.zeros(_CATEGORIES, np.uint8)
    raw = data_set("context").vocabulary.raw
    assert raw is not None
    table[list(raw)] = np.arange(len(raw))
    return table


def _read(path: Path) -> tuple[dict[int, tuple[str, int, int]], dict[int, list[Any]]]:
    """Reads the validation pictures, and the masks of all of them by picture."""
    pictures: dict[int, tuple[str, int, int]] = {}
    others: set[int] = set()
    masks: dict[int, list[Any]] = {}
    try:
        for key, item in items_of(path):
            if key == "images" and item["phase"] == "val":
                pictures[item["image_id"]] = item["file_name"], item["height"], item["width"]
            elif key == "images":
                others.add(item["image_id"])
            elif key == "annos_segmentation" and item["image_id"] not in others:
                code = item["segmentation"]
                row = item["category_id"], tuple(code["size"]), code["counts"]
                masks.setdefault(item["image_id"], []).append(row)
    except (KeyError, TypeError) as error:
        raise expected(
            str(path), "images and annos_segmentation of the Detail API", f"rows without {error}",
            "it is another file: download trainval_merged.json again",
        ) from error  # fmt: skip
    return pictures, masks


def items_of(path: Path) -> Iterator[tuple[str, Any]]:
    """Reads the lists of a large JSON object, an item at a time.

    The file has 590 MB; as Python objects all of it would take ten times the room.

    Args:
        path: a file that holds one object.

    Yields:
        (key, item) of each list in it; other values are left out.

    Raises:
        UserError: naming the file, when it cannot be read or is cut short.
    """
    try:
        text = path.read_text(encoding="utf-8")
        yield from _items(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its rights") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: is damaged or cut short ({str(error)[:80]}); download it again"
        ) from error


def _items(text: str) -> Iterator[tuple[str, Any]]:
    decode = json.JSONDecoder().raw_decode

    def skip(at: int) -> int:
        return WHITESPACE.match(text, at).end()

    def over(at: int, sign: str) -> int:
        if text[at : at + 1] != sign:
            raise json.JSONDecodeError(f"expected {sign}", text, at)
        return skip(at + 1)

    def next_from(at: int, end: str) -> int:
        """Steps over blanks and a comma; stays at the end sign."""
        at = skip(at)
        return at if text[at : at + 1] == end else over(at, ",")

    at = over(skip(0), "{")
    while text[at : at + 1] != "}":
        key, at = decode(text, at)
        at = over(skip(at), ":")
        if text[at : at + 1] == "[":
            at = skip(at + 1)
            while text[at : at + 1] != "]":
                item, at = decode(text, at)
                yield key, item
                at = next_from(at, "]")
            at += 1
        else:
            at = decode(text, at)[1]
        at = next_from(at, "}")


RECIPE = described(
    "context",
    (
        Archive(
            "VOCtrainval_03-May-2010*.tar",
            ("*/JPEGImages/*", "*/ImageSets/Segmentation*/*"),
        ),
    ),
    examples,
    make,
)

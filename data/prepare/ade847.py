"""A-847: the validation pictures of ADE20K_2021_17_01 with the 847 classes of MaskFormer.

Numbers on it are published at a short side of at most 512 pixels, with the pictures saved as JPEG
once more. So are they here, beside the labels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from openseg_jax.data.prepare import ade_full
from openseg_jax.data.prepare.base import Archive, Job, Made, cannot_be_read, described
from PIL import Image

from openseg_jax.errors import UserError, expected
from openseg_jax.inputs.augment import IGNORE
from openseg_jax.inputs.data_sets import data_set
from openseg_jax.inputs.label_layouts import find_path, listing
from openseg_jax.types import UInt8

__all__ = ["RECIPE"]

_FACTS = data_set("ade847")
_FOLDERS = ("ade/ADE20K_2021_17_01|images/ADE/validation",)
# Not the masks of single instances, which are most of the archive's files.
_KEEP = ("*/validation/*.jpg", "*/validation/*_seg.png")


def _examples(root: Path) -> Sequence[Job]:
    folder = find_path(root, _FOLDERS, "_seg.png")
    if folder is None:
        raise UserError(
            f"{root}: holds no ADE20K_2021_17_01 with *_seg.png; put {_FACTS.get} there"
        )
    pictures, colours = listing(folder, (".jpg",)), listing(folder, ("_seg.png",))
    for name in sorted(set(pictures) ^ set(colours)):
        end = "_seg.png" if name in pictures else ".jpg"
        raise UserError(f"{folder / (name + end)}: the file is missing; unpack the archive again")
    return [
        Job(Path(name).name, pictures[name], colours[name])
        for name in sorted(pictures, key=lambda name: Path(name).name)
    ]


def _make(job: Job) -> Made:
    colours = ade_full.read_colours(job.data)
    try:
        numbers = ade_full.class_numbers(colours)
    except UserError as error:
        raise UserError(f"{job.data}: {error}") from error
    image = _stored(job.image)
    if image.shape[:2] != numbers.shape:
        raise expected(
            str(job.data), f"the size of its picture, {image.shape[1]}x{image.shape[0]}",
            f"{numbers.shape[1]}x{numbers.shape[0]}", "unpack the archive again",
        )  # fmt: skip
    image, numbers = ade_full.shrink(image, numbers)
    table = np.full(ade_full.OBJECTS + 1, IGNORE, np.int32)
    table[list(_FACTS.vocabulary.raw or ())] = np.arange(len(_FACTS.classes))
    return Made(table[numbers], _jpeg(image))


def _stored(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """Reads a picture as stored: the colours were painted on that, whatever EXIF says."""
    try:
        with Image.open(path) as stored:
            return np.asarray(stored.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise cannot_be_read(path, error) from error


def _jpeg(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    buffer = io.BytesIO()
    # Pillow's own quality: that is what the published pictures were saved with.
    Image.fromarray(image).save(buffer, "JPEG")
    return buffer.getvalue()


RECIPE = described("ade847", (Archive("ADE20K_2021_17_01*.zip", _KEEP),), _examples, _make)

"""Label maps from TensorFlow Datasets, through `data_source`: no TensorFlow, no OpenCV.

`openseg_jax.data.builders` has the builders. TFDS's own NumPy decoding has no 16-bit labels
without OpenCV and leaves grey pictures grey, so records are read undecoded.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from openseg_jax.errors import UserError, expected
from openseg_jax.inputs.augment import IGNORE
from openseg_jax.inputs.images import decode_image
from openseg_jax.inputs.labelled_set import ignore_value
from openseg_jax.inputs.tfds_captions import open_source
from openseg_jax.types import Int, UInt8

__all__ = ["TfdsLabels", "open_tfds_labels"]


@dataclasses.dataclass(frozen=True)
class TfdsLabels:
    """Pictures with label maps by index.

    Attributes:
        name: of the data set in TFDS.
        classes: names of all classes, in the order of the labels.
        source: records {"image", "labels", "name"}; bytes of the files, not decoded.
    """

    name: str
    classes: tuple[str, ...]
    source: Sequence[Any]

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "H W 3"], Int[np.ndarray, "H W"]]:
        """Reads a picture and its labels: UInt8[H W 3], and Int32[H W] of classes or `IGNORE`.

        Raises:
            UserError: naming the record, when it is damaged or its parts do not fit together.
        """
        row = self.source[index]
        where = f"{self.name}, record {index}"
        image = decode_image(bytes(row["image"]), where)
        try:
            with Image.open(io.BytesIO(bytes(row["labels"]))) as picture:
                values = np.asarray(picture).astype(np.int32)
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"{where}: its labels are damaged ({error}); build it again") from error
        if values.shape != image.shape[:2]:
            raise expected(
                where, f"labels of {image.shape[0]}x{image.shape[1]} as its picture",
                "x".join(map(str, values.shape)), "build it again",
            )  # fmt: skip
        labels = np.where(values == ignore_value(len(self.classes)), IGNORE, values)
        if labels.max(initial=0) >= len(self.classes):
            raise expected(
                where, f"labels below {len(self.classes)}", str(labels.max()), "build it again"
            )
        return image, labels.astype(np.int32)


def open_tfds_labels(name: str, split: str = "validation", folder: str = "") -> TfdsLabels:
    """Opens a data set that one of our builders has built.

    Args:
        name: e.g. "voc2012_segmentation" or "ade20k_semantic/847".
        split: the builders have "validation".
        folder: TFDS's `data_dir`; "" takes its own default.

    Raises:
        UserError: with the command that mends it, when TFDS is not installed or the data set is
            not built.
    """
    command = f"python -m openseg_jax.data.builders {name} --root ARCHIVES"
    command += f" --data-dir {folder}" if folder else ""
    builder, source = open_source(name, split, folder, ("image", "labels"), command)
    return TfdsLabels(name, tuple(builder.info.features["labels"].names), source)

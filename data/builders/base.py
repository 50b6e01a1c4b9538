"""What the TFDS builders share: a data set of label maps as records of picture, labels and name.

A builder reads what `openseg_jax.inputs.labelled_set.open_set` reads: a prepared data set, or the
folders of mmsegmentation or detectron2; official archives are prepared first. Pictures go into the
records byte for byte, unless EXIF turns them; labels are decoded, checked and written as PNG of
classes, 8 bits, or 16 bits from 255 classes on. Neither building as array_record (`build.py`) nor
reading needs TensorFlow.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from openseg_jax.data.prepare.run import prepare
from openseg_jax.data.prepare.work import encode
from PIL import ExifTags, Image

from openseg_jax.errors import UserError
from openseg_jax.inputs.data_sets import data_set
from openseg_jax.inputs.labelled_set import LabelledSet, ignore_value, open_set
from openseg_jax.types import UInt8

__all__ = ["LabelConfig", "LabelledBuilder", "picture_bytes"]


@dataclasses.dataclass(eq=False, kw_only=True)
class LabelConfig(tfds.core.BuilderConfig):
    """One of the class lists of a builder.

    Attributes:
        data_set: as `openseg data prepare` calls it, e.g. "context459".
    """

    data_set: str


# Where TFDS is not installed, pyright takes its classes for `object`.
class LabelledBuilder(  # pyright: ignore[reportGeneralTypeIssues]
    tfds.core.GeneratorBasedBuilder,
    skip_registration=True,  # pyright: ignore[reportCallIssue]
):
    """Records {image, labels, name} of the pictures that results are published on.

    Subclasses say in class attributes what differs. `labels` are rows of the class list, which
    `info.features["labels"].names` holds; the metadata tells the value of what is not labelled.

    Attributes:
        DATA_SET: as `openseg data prepare` calls it; builders with configs leave it empty.
        IMAGE_FORMAT: "jpeg" or "png", of the pictures.
        DESCRIPTION, HOMEPAGE, CITATION: for the catalogue.
    """

    # TFDS would look below openseg_jax/, where a checkout has no such folder.
    pkg_dir_path = epath.Path(__file__).parent
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "The validation pictures."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Give with --manual_dir the folder that holds the official archives, or that `openseg data "
        "prepare` has worked in; `openseg data list` says where the archives come from."
    )
    DATA_SET = ""
    IMAGE_FORMAT = "jpeg"
    DESCRIPTION = ""
    HOMEPAGE = ""
    CITATION = ""

    @property
    def data_set(self) -> str:
        """Name of the data set, as `openseg data prepare` calls it."""
        config = self.builder_config
        return config.data_set if isinstance(config, LabelConfig) else self.DATA_SET

    def _info(self) -> tfds.core.DatasetInfo:
        facts = data_set(self.data_set)
        top = ignore_value(len(facts.classes))
        deep = top > 255
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.DESCRIPTION} Value {top} in `labels` means that a pixel is not "
            "labelled.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format=self.IMAGE_FORMAT),
                    "labels": tfds.features.LabeledImage(
                        labels=list(facts.classes),
                        dtype=np.uint16 if deep else np.uint8,
                        encoding_format="png",
                    ),
                    "name": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "labels"),
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
            license=facts.vocabulary.licence,
            metadata=tfds.core.MetadataDict(
                data_set=facts.name,
                vocabulary=facts.words,
                background=facts.background,
                ignore=top,
                source=facts.vocabulary.source,
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        root = Path(dl_manager.manual_dir)
        try:
            found = open_set(self.data_set, root)
        except UserError:
            prepare(self.data_set, root)  # says what is missing, or what is wrong with a file
            found = open_set(self.data_set, root)
        return {"validation": self._generate_examples(found)}

    def _generate_examples(self, found: LabelledSet) -> Iterator[tuple[str, dict[str, Any]]]:
        for index, item in enumerate(found.items):
            image, labels = found.read(index)  # checks values and sizes; errors name the file
            yield (
                item.name,
                {
                    "image": picture_bytes(item.image, image),
                    "labels": encode(labels, len(found.classes))[0],
                    "name": item.name,
                },
            )


def picture_bytes(path: Path, image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """Returns the bytes of a picture's file.

    A picture that its EXIF block turns becomes a PNG of `image`, the pixels that the labels belong
    to: not every decoder turns it.
    """
    with Image.open(path) as stored:
        turned = stored.getexif().get(ExifTags.Base.Orientation, 1) != 1
    if not turned:
        return path.read_bytes()
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()

"""Pictures whose class is the folder that they lie in, as ImageNet is laid out."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from openseg_jax.errors import expected
from openseg_jax.inputs.images import read_image
from openseg_jax.inputs.labels import read_labels
from openseg_jax.inputs.vocabularies import vocabulary
from openseg_jax.types import UInt8

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class ClassFolder:
    """The pictures of a folder with one subfolder for each class.

    Pictures are listed class by class in turn (first of each, second of each, …), so that any
    beginning of the list has the classes as evenly as there are pictures of them.

    Args:
        path: of the folder; the classes are its subfolders in the order of their names.
        labels: names of the classes in that order: a vocabulary or a .txt file with one name a
            line; "" takes the subfolders' own names, underscores read as blanks.
        limit: pictures at most; 0 takes all.

    Attributes:
        names: of the classes.

    Raises:
        UserError: for a folder without classes or pictures, or another number of names.
    """

    def __init__(self, path: str | os.PathLike[str], labels: str = "", limit: int = 0) -> None:
        folder = Path(path)
        what = "evaluate.path"
        layout = "a folder with one folder of pictures for each class"
        if not folder.is_dir():
            raise expected(what, layout, repr(str(path)), "check the path")
        classes = sorted(x for x in folder.iterdir() if x.is_dir() and x.name[0] != ".")
        if not classes:
            raise expected(what, layout, f"no folders in {folder}", "sort the pictures into some")
        self.names: Sequence[str] = [x.name.replace("_", " ") for x in classes]
        if labels:
            named = Path(labels).suffix == ".txt"
            self.names = read_labels(labels) if named else vocabulary(labels).names
        if len(self.names) != len(classes):
            raise expected(
                "evaluate.labels", f"{len(classes)} names, one for each folder of {folder}",
                f"{len(self.names)} in {labels}", "list them in the order of the sorted folders",
            )  # fmt: skip
        files = [[(file, kind) for file in _pictures(x)] for kind, x in enumerate(classes)]
        turns = itertools.chain.from_iterable(itertools.zip_longest(*files))
        listed = [row for row in turns if row is not None]
        self._files = listed[:limit] if limit else listed
        if not listed:
            raise expected(what, layout, f"no pictures in {folder}", f"known: {' '.join(_IMAGES)}")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "H W 3"], int]:
        """Reads a picture and tells its class; a damaged file is a `UserError` naming it."""
        file, kind = self._files[index]
        return read_image(file), kind


def _pictures(folder: Path) -> list[Path]:
    return sorted(x for x in folder.iterdir() if x.suffix.lower() in _IMAGES)

"""Pictures with label maps as batches of binary segments, one for each class that is present.

What a model must not see in training is taken out here, before anything else looks at it: pixels of
unseen classes become "ignore", and no segment and no proposal is ever made of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from openseg_jax.errors import UserError, expected, unknown_name
from openseg_jax.inputs.augment import IGNORE, Views
from openseg_jax.inputs.images import read_image
from openseg_jax.inputs.labels import read_labels
from openseg_jax.inputs.pipeline import Example
from openseg_jax.inputs.vocabularies import Split, split, vocabulary
from openseg_jax.types import Bool, Int, UInt8

__all__ = [
    "Classes",
    "LabelledFolder",
    "Segmentation",
    "classes_of",
    "read_label_map",
    "segments_of",
]

NUMBERINGS = ("contiguous", "one_based", "raw")
IMAGE_ENDS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
LABEL_ENDS = (".png", ".tif", ".tiff", ".bmp")

# (image, labels) of an index; labels are training classes or IGNORE.
Read = Callable[[int], tuple[UInt8[np.ndarray, "H W 3"], Int[np.ndarray, "H W"]]]
# (image, labels, index, epoch) to Bool[M h w] and which of them exist.
Propose = Callable[
    [np.ndarray, np.ndarray, int, int], tuple[Bool[np.ndarray, "M h w"], Bool[np.ndarray, "M"]]
]


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes that training sees, and what becomes of a label map's values.

    Attributes:
        names: of the training classes, in the order of their ids.
        table: Int32[V]; training class of each value in a label map, `IGNORE` for unseen
            classes and everything else. Values beyond the table are ignored too.
    """

    names: tuple[str, ...]
    table: Int[np.ndarray, "V"]

    def __call__(self, values: Int[np.ndarray, "H W"]) -> Int[np.ndarray, "H W"]:
        """Turns a label map's values into training classes or `IGNORE`."""
        inside = (values >= 0) & (values < len(self.table))
        return np.where(inside, self.table[np.where(inside, values, 0)], IGNORE).astype(np.int32)


def classes_of(
    names: Sequence[str],
    unseen: Bool[np.ndarray, "C"] | None = None,
    values: Sequence[int] | None = None,
) -> Classes:
    """Numbers the seen classes and maps all else to `IGNORE`.

    Args:
        names: of all classes.
        unseen: classes whose masks training must not show; None means none.
        values: of each class in the label maps; None means 0, 1, 2, …
    """
    hidden = np.zeros(len(names), bool) if unseen is None else np.asarray(unseen, bool)
    values = range(len(names)) if values is None else values
    table = np.full(max(values, default=0) + 1, IGNORE, np.int32)
    table[np.asarray(values)[~hidden]] = np.arange(np.count_nonzero(~hidden))
    return Classes(tuple(n for n, h in zip(names, hidden, strict=True) if not h), table)


def named_classes(name: str, split_name: str, numbering: str) -> Classes:
    """Finds classes by the names that a config uses.

    Args:
        name: of a vocabulary, or a file with one name a line.
        split_name: of a split of that vocabulary; "" trains on all classes.
        numbering: values in the label maps: "contiguous" (0, 1, 2, …), "one_based" (class k is
            k + 1, 0 is ignored) or "raw" (the data set's own, see the vocabulary's file).

    Raises:
        UserError: for names that are unknown or do not belong together.
    """
    if numbering not in NUMBERINGS:
        unknown_name(numbering, NUMBERINGS, "input.masks.ids")
    values: Sequence[int] | None = None
    if Path(name).suffix == ".txt":
        names: Sequence[str] = read_labels(name)
    else:
        found = vocabulary(name)
        names, values = found.names, found.raw
    if numbering == "raw" and values is None:
        raise expected(
            "input.masks.ids", "contiguous or one_based", "'raw'",
            f"{name} lists no ids of the data set's own files",
        )  # fmt: skip
    values = values if numbering == "raw" else None
    if numbering == "one_based":
        values = range(1, len(names) + 1)
    chosen: Split | None = split(split_name) if split_name else None
    if chosen is not None and chosen.vocabulary.names != tuple(names):
        raise expected(
            "input.masks.split", f"a split of {name}", f"{split_name}, of {chosen.vocabulary.name}",
            "choose the vocabulary that the split divides",
        )  # fmt: skip
    return classes_of(names, None if chosen is None else chosen.unseen, values)


def segments_of(labels: Int[np.ndarray, "H W"], count: int) -> Example:
    """Makes one binary mask for each class that a label map shows.

    Args:
        labels: training classes or `IGNORE`.
        count: K; where more classes are present, those of the largest area are kept.

    Returns:
        `segments` Bool[K H W], `segment_class` Int32[K] in ascending order, `segment_valid`
        Bool[K]; rows beyond the classes that are present are empty, class 0 and not valid.
    """
    present, areas = np.unique(labels[labels >= 0], return_counts=True)
    present = np.sort(present[np.argsort(-areas, kind="stable")[:count]])
    masks = np.zeros((count, *labels.shape), bool)
    masks[: len(present)] = labels == present[:, None, None]
    ids = np.zeros(count, np.int32)
    ids[: len(present)] = present
    valid = np.arange(count) < len(present)
    return {"segments": masks, "segment_class": ids, "segment_valid": valid}


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """A source of {image, segments, segment_class, segment_valid, proposals…} by index.

    Attributes:
        read: index to picture and training labels.
        length: number of examples.
        segments: K, rows for the classes of a picture.
        views: random views; None takes pictures as they come (they must be of one size).
        propose: makes proposals from what is left of the labels; None leaves them out.
        seed: of the views.
    """

    read: Read
    length: int
    segments: int
    views: Views | None = None
    propose: Propose | None = None
    seed: int = 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        return self.at(index, 0)

    def at(self, index: int, epoch: int) -> Example:
        """Makes the example of an epoch; the same two numbers always give the same example."""
        image, labels = self.read(int(index))
        if self.views is not None:
            rng = np.random.default_rng([self.seed, int(epoch), int(index)])
            image, labels = self.views.draw(rng, image, labels)
        example = {"image": np.ascontiguousarray(image), **segments_of(labels, self.segments)}
        if self.propose is not None:
            masks, valid = self.propose(image, labels, int(index), int(epoch))
            example |= {"proposals": masks, "proposals_valid": valid}
        return example


def read_label_map(path: Path) -> Int[np.ndarray, "H W"]:
    """Reads a label map: one number a pixel, 8 or 16 bits, a palette's indexes included.

    Raises:
        UserError: for a picture in colours, or a file that cannot be read.
    """
    try:
        with Image.open(path) as picture:
            values = np.asarray(picture)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path}: cannot be read as a label map ({error}); save a PNG") from error
    if values.ndim != 2 or values.dtype.kind not in "iub":
        raise expected(
            str(path), "one whole number a pixel", f"{values.dtype} of shape {values.shape}",
            "save label maps as grey or palette PNG, not in colours",
        )  # fmt: skip
    return values.astype(np.int32)


class LabelledFolder:
    """Pictures in one folder and label maps of the same names in another.

    That is how detectron2's prepared data sets and mmsegmentation's img_dir and ann_dir lie;
    subfolders are searched and must agree. Pictures without a label map are left out, and label
    maps without a picture too.

    Args:
        images: folder of pictures.
        labels: folder of label maps.
        classes: turns their values into training classes.
        suffix: what a label map's name has beyond the picture's, e.g. "_labelTrainIds".

    Raises:
        UserError: when a folder is missing or no picture has a label map.
    """

    def __init__(self, images: str, labels: str, classes: Classes, suffix: str = "") -> None:
        self.classes = classes
        pictures = _stems(images, IMAGE_ENDS, "", "input.path")
        maps = _stems(labels, LABEL_ENDS, suffix, "input.masks.labels")
        both = sorted(set(pictures) & set(maps))
        if not both:
            raise expected(
                "input.masks.labels", f"label maps named as the pictures of {images}",
                f"pictures like {_first(pictures)!r} and label maps like {_first(maps)!r}",
                "correct the folders, or set input.masks.suffix",
            )  # fmt: skip
        self.pairs = [(pictures[name], maps[name]) for name in both]

    def __len__(self) -> int:
        return len(self.pairs)

    def __call__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, labels = self.pairs[index]
        return read_image(image), self.classes(read_label_map(labels))


def _stems(folder: str, endings: tuple[str, ...], suffix: str, key: str) -> dict[str, Path]:
    root = Path(folder)
    if not folder or not root.is_dir():
        raise expected(key, "a folder", repr(folder), "name the folder, e.g. --set " + key + "=DIR")
    found = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in endings and path.stem.endswith(suffix):
            name = path.relative_to(root).with_suffix("").as_posix()
            found[name[: len(name) - len(suffix)]] = path
    return found


def _first(names: dict[str, Path]) -> str:
    return next(iter(names), "none")

"""Pictures with label maps for evaluation: prepared by us, prepared for others, or a user's own.

`open_set` takes what `openseg data prepare` wrote, or reads the folders of mmsegmentation and
detectron2 as they lie; `open_folder` reads a user's own. Either way an example is a picture and
the class of each pixel, and a file that cannot be right is refused by name.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openseg_jax.errors import UserError, expected, unknown_name
from openseg_jax.files import nearest_path
from openseg_jax.inputs import label_layouts
from openseg_jax.inputs.augment import IGNORE
from openseg_jax.inputs.data_sets import DATA_SETS, UNKNOWN, data_set, value_table
from openseg_jax.inputs.images import read_image
from openseg_jax.inputs.labels import read_labels
from openseg_jax.inputs.segmentation import IMAGE_ENDS, LABEL_ENDS, NUMBERINGS, read_label_map
from openseg_jax.types import Int, UInt8

__all__ = [
    "FORMAT",
    "Item",
    "LabelledSet",
    "ignore_value",
    "open_folder",
    "open_prepared",
    "open_set",
    "own_parts",
    "picture_of_size",
    "read_prepared",
]

FORMAT = "openseg-labels-1"
"""Written into a prepared data set; readers refuse others."""

_LABEL_FOLDERS = ("labels", "masks", "annotations")


@dataclasses.dataclass(frozen=True)
class Item:
    """One picture with its label map.

    Attributes:
        name: stable and unique in the set; reports and resuming go by it.
        image: the picture's file.
        labels: the label map's file.
    """

    name: str
    image: Path
    labels: Path


@dataclasses.dataclass(frozen=True)
class LabelledSet:
    """Pictures with label maps by index.

    Attributes:
        name: of the data set, e.g. "voc".
        classes: names of its full class list; labels are rows of it.
        background: whether class 0 is what no other class covers.
        items: the pictures, in a fixed order.
        table: Int32[V], value in a label map -> class, `IGNORE`, or `UNKNOWN` for values that must
            not occur; None: the files hold classes, and their greatest value (255, or 65535 in 16
            bits) means "not labelled".
        layout: "prepared", "official", "mmsegmentation", "detectron2" or "folder".
        facts: for the provenance line: source, licence, published counts, count, sha256 of the
            list of names, and `lacks_background` where background pixels are not labelled.
    """

    name: str
    classes: tuple[str, ...]
    background: bool
    items: tuple[Item, ...]
    table: Int[np.ndarray, "V"] | None
    layout: str
    facts: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "H W 3"], Int[np.ndarray, "H W"]]:
        """Reads a picture and its labels.

        Returns:
            UInt8[H W 3], and Int32[H W] of classes or `IGNORE`.

        Raises:
            UserError: naming the file, when one is missing or damaged, when sizes differ, or when
                labels are outside the class list.
        """
        item = self.items[index]
        labels = self.read_labels(index)
        return picture_of_size(item.image, labels.shape, str(item.labels)), labels

    def read_labels(self, index: int) -> Int[np.ndarray, "H W"]:
        """Reads the labels alone, see `read`."""
        return read_classes(self.items[index].labels, self.lookup, f"{self.name} ({self.layout})")

    @functools.cached_property
    def lookup(self) -> Int[np.ndarray, "V"]:
        """The table that applies: `table`, or the one of prepared files."""
        if self.table is not None:
            return self.table
        count = len(self.classes)
        return value_table({i: i for i in range(count)}, [ignore_value(count)])


def read_classes(path: Path, table: Int[np.ndarray, "V"], owner: str) -> Int[np.ndarray, "H W"]:
    """Reads a label map and turns its values into classes.

    Args:
        path: the file.
        table: value -> class, `IGNORE` or `UNKNOWN`.
        owner: the data set and layout, for the message.

    Returns:
        Int32[H W] of classes or `IGNORE`.

    Raises:
        UserError: naming the file, when it is missing or damaged or has a value that is unknown.
    """
    values = read_label_map(path)
    if values.min(initial=0) >= 0 and values.max(initial=0) < len(table):
        labels = table[values]
        if labels.min(initial=0) != UNKNOWN:
            return labels
        strange = values[labels == UNKNOWN]
    else:
        strange = values[(values < 0) | (values >= len(table))]
    known, other = np.flatnonzero(table >= 0), np.flatnonzero(table == IGNORE)
    rest = f" or {', '.join(map(str, other))} (not labelled)" if other.size else ""
    raise expected(
        str(path), f"labels from {known.min()} to {known.max()}{rest}",
        f"{int(strange.flat[0])} at {strange.size} pixels",
        f"the file does not belong to {owner}, or is damaged: replace it, or correct the folder "
        "or the class list",
    )  # fmt: skip


def ignore_value(classes: int) -> int:
    """The value that means "not labelled" in prepared files: 255, or 65535 in 16 bits."""
    return 255 if classes <= 254 else 65535


def open_set(name: str, root: str | os.PathLike[str]) -> LabelledSet:
    """Opens a data set: as prepared by us in `root`/prepared, else in a layout that is known.

    Args:
        name: of the data set, e.g. "voc"; "folder" for a user's own, see `open_folder`.
        root: folder of all data.

    Raises:
        UserError: when nothing is found, with the command to run; naming the file when something
            is found and cannot be right.
    """
    root = Path(root)
    if name not in (*DATA_SETS, "folder"):
        unknown_name(name, (*DATA_SETS, "folder"), "data set")
    if not root.is_dir():
        raise expected("--data-dir", "a folder", repr(str(root)), "create it or correct the path")
    if (root / "prepared" / name / "dataset.json").is_file():
        return open_prepared(root / "prepared" / name, root)
    return open_folder(root) if name == "folder" else _open_layout(name, root)


def open_prepared(folder: Path, root: Path) -> LabelledSet:
    """Opens what `openseg data prepare` wrote.

    Args:
        folder: with dataset.json, items.jsonl and labels/.
        root: where the paths of the pictures start.

    Raises:
        UserError: when the files are not as they were written.
    """
    head, rows = read_prepared(folder)
    items = tuple(Item(r["name"], root / r["image"], folder / r["labels"]) for r in rows)
    kept = ("source", "licence", "published", "count", "histogram", "limited")
    facts = {key: head[key] for key in kept if key in head} | {"sha256": head["sha256"]}
    return LabelledSet(
        head["name"], tuple(head["classes"]), head["background"], items, None, "prepared", facts
    )


def read_prepared(
    folder: Path, format: str = FORMAT
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Reads dataset.json and items.jsonl of a prepared data set and checks them.

    Args:
        folder: that holds the two.
        format: what dataset.json must call itself.

    Returns:
        what dataset.json says; the row of each item.

    Raises:
        UserError: when the files are missing, of another format, or do not belong together.
    """
    again = f"run openseg data prepare {folder.name} --root {folder.parent.parent} --again"
    try:
        head = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        text = (folder / "items.jsonl").read_bytes()
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); {again}") from error
    except ValueError as error:
        raise UserError(f"{folder / 'dataset.json'}: is damaged ({error}); {again}") from error
    if not isinstance(head, dict) or head.get("format") != format:
        got = head.get("format") if isinstance(head, dict) else type(head).__name__
        raise expected(str(folder / "dataset.json"), f"format {format}", repr(got), again)
    if hashlib.sha256(text).hexdigest() != head["sha256"]:
        raise UserError(f"{folder / 'items.jsonl'}: is not the list that was written; {again}")
    rows = [json.loads(line) for line in text.decode("utf-8").splitlines()]
    if not rows:
        raise UserError(f"{folder / 'items.jsonl'}: names no picture; {again}")
    return head, rows


def open_folder(
    images: str | os.PathLike[str],
    labels: str | os.PathLike[str] | None = None,
    classes_file: str | os.PathLike[str] | None = None,
    *,
    suffix: str = "",
    numbering: str = "contiguous",
    name: str = "folder",
) -> LabelledSet:
    """Opens a user's own set: pictures in one folder, label maps of the same names in another.

    Args:
        images: folder of pictures, subfolders included; or, with no other argument, the folder that
            holds images/, labels/ (or masks/, annotations/) and classes.txt.
        labels: folder of label maps: grey or palette PNG or TIFF, 8 or 16 bits.
        classes_file: one class name a line, in the order of their values. A first line
            "background" says that class 0 is what no other class covers.
        suffix: what a label map's name has beyond the picture's, e.g. "_mask".
        numbering: "contiguous": values are 0, 1, 2, …; "one_based": value 1 is the first class and
            0 is not labelled. 255 (65535 with more than 254 classes) is never labelled.
        name: of the set, for reports.

    Raises:
        UserError: when a folder is missing or empty, or a picture has no label map or a label map
            no picture; naming the file.
    """
    if numbering not in NUMBERINGS[:2]:
        unknown_name(numbering, NUMBERINGS[:2], "numbering")
    images = Path(images)
    if labels is None and classes_file is None:
        images, labels, classes_file = own_parts(images)
    if labels is None or classes_file is None:
        raise UserError("labels, classes_file: give both, or neither for a folder with the three")
    classes = tuple(read_labels(classes_file))
    if not classes:
        raise UserError(f"{classes_file}: names no class; write one a line")
    pictures = label_layouts.listing(images, IMAGE_ENDS)
    maps = label_layouts.listing(Path(labels), tuple(suffix + end for end in LABEL_ENDS))
    for found, folder, start in ((pictures, images, ""), (maps, Path(labels), suffix)):
        if not found:
            ends = ", ".join(start + end for end in (LABEL_ENDS if found is maps else IMAGE_ENDS))
            got = "none" if folder.is_dir() else "no such folder"
            raise expected(str(folder), f"files ending in {ends}", got, "correct the folder")
    _check_pairs(pictures, maps, suffix)
    first = int(numbering == "one_based")
    top = ignore_value(len(classes) + first)
    table = value_table({i + first: i for i in range(len(classes))}, [top] + [0] * first)
    items = tuple(Item(key, pictures[key], maps[key]) for key in sorted(maps))
    facts = {
        "source": str(images), "labels": str(labels), "licence": "the user's own",
        "count": len(items), "sha256": _digest(items),
    }  # fmt: skip
    background = classes[0].casefold() == "background"
    return LabelledSet(name, classes, background, items, table, "folder", facts)


def own_parts(home: Path) -> tuple[Path, Path, Path]:
    """Finds pictures, label maps and classes in the folder of a user's own set.

    Raises:
        UserError: when one of them is not there, with what is there and what was meant perhaps.
    """
    if not home.is_dir():
        raise UserError(f"{home}: there is no such folder; {nearest_path(home)}")
    parts = (("images",), _LABEL_FOLDERS, ("classes.txt",))
    found = [next((home / n for n in names if (home / n).exists()), None) for names in parts]
    images, labels, classes = found
    if images and labels and classes:
        return images, labels, classes
    here = sorted(path.name for path in home.iterdir())
    missing = [names for names, path in zip(parts, found, strict=True) if path is None]
    near = [close for names in missing for close in difflib.get_close_matches(names[0], here, n=1)]
    others = [path for path in (home.resolve().parent, *home.glob("*")) if _is_own(path)]
    hint = f"did you mean {others[0]}?" if others else "see docs/evaluation.md"
    if near:
        hint = f"is it {home / near[0]}? rename it"
    shown = ", ".join(here[:8]) + (", …" if len(here) > 8 else "")
    raise expected(
        str(home), "images/, labels/ (or masks/, annotations/) and classes.txt",
        f"no {', no '.join(names[0] for names in missing)} but {shown or 'nothing'}", hint,
    )  # fmt: skip


def _is_own(home: Path) -> bool:
    return (home / "classes.txt").is_file() and (home / "images").is_dir()


def _check_pairs(pictures: Mapping[str, Path], maps: Mapping[str, Path], suffix: str) -> None:
    alone = sorted(set(pictures) - set(maps)), sorted(set(maps) - set(pictures))
    for names, files, other in ((alone[0], pictures, "label map"), (alone[1], maps, "picture")):
        if names:
            raise UserError(
                f"{files[names[0]]}: has no {other} of the name {names[0]!r}"
                + (f" and ending {suffix!r}" if suffix and other == "label map" else "")
                + f" ({len(names)} of {len(files)} have none); add them or take the files out"
            )


def _open_layout(name: str, root: Path) -> LabelledSet:
    facts = data_set(name)
    found = label_layouts.find(facts, root)
    items = tuple(Item(key, image, labels) for key, image, labels in found.files)
    words = facts.vocabulary
    return LabelledSet(
        name, facts.classes, facts.background, items, found.layout.table(), found.layout.style,
        {
            "source": words.source, "licence": words.licence, "published": list(facts.counts),
            "count": len(items), "images": str(found.images), "labels": str(found.labels),
            "sha256": _digest(items), "lacks_background": found.layout.lacks_background,
        },
    )  # fmt: skip


def _digest(items: tuple[Item, ...]) -> str:
    return hashlib.sha256("\n".join(item.name for item in items).encode()).hexdigest()


def picture_of_size(path: Path, size: tuple[int, ...], owner: str) -> UInt8[np.ndarray, "H W 3"]:
    """Reads a picture that must have the size of its annotation.

    Args:
        path: of the picture.
        size: (H, W) of the annotation.
        owner: what the annotation is called in messages.

    Raises:
        UserError: naming both when their sizes differ, and as `read_image`.
    """
    image = read_image(path)
    if image.shape[:2] == size:
        return image
    if image.shape[1::-1] == size:
        # Some tools label the stored pixels of a picture that its EXIF block turns.
        with Image.open(path) as stored:
            if stored.size == size[::-1]:
                return np.array(stored.convert("RGB"))
    raise UserError(
        f"{owner}: expected the size of its picture {path}, "
        f"{image.shape[1]}x{image.shape[0]}, got {size[1]}x{size[0]}; replace one of the two"
    )

"""Checking a data set: counts, sizes, label values, label histogram and hashes.

What was prepared is compared with what was written down then. Folders of other projects and a
user's own have nothing to compare with; there the pictures and label maps must agree.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from openseg_jax.data.prepare import pool
from openseg_jax.data.prepare.archives import Tell
from openseg_jax.data.prepare.work import picture_sizes, sha256

from openseg_jax.errors import UserError, expected, unknown_name
from openseg_jax.inputs import referring_set
from openseg_jax.inputs.data_sets import DATA_SETS
from openseg_jax.inputs.images import read_image
from openseg_jax.inputs.labelled_set import (
    LabelledSet,
    open_folder,
    open_prepared,
    open_set,
    read_classes,
    read_prepared,
)
from openseg_jax.ops import rle
from openseg_jax.types import Int

__all__ = ["Report", "verify"]


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        name: of the data set.
        layout: "prepared", "official", "mmsegmentation", "detectron2", "folder" or "referring".
        count: items that are there.
        published: numbers of items that results are published on; () where none is.
        classes: names; () for referring sets.
        pixels: Int64[C], of each class.
        pictures: Int64[C], that show each class.
        not_labelled: pixels of no class.
        problems: what is wrong, each with the file and what to do.
        notes: what is worth knowing.
    """

    name: str
    layout: str
    count: int
    published: tuple[int, ...]
    classes: tuple[str, ...]
    pixels: Int[np.ndarray, "C"]
    pictures: Int[np.ndarray, "C"]
    not_labelled: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Check:
    """What one item must be; `labels` or `mask` is None."""

    image: Path
    labels: Path | None
    size: tuple[int, int] | None
    sha256: str | None
    mask: Mapping[str, Any] | None


def verify(
    name: str,
    root: str | os.PathLike[str],
    *,
    workers: int | None = None,
    quick: bool = False,
    tell: Tell | None = None,
) -> Report:
    """Checks every file of a data set.

    Args:
        name: of the data set, or "folder" for a user's own.
        root: folder of all data.
        workers: processes; None takes as many as there are cores.
        quick: read the pictures' sizes only, not their pixels.
        tell: progress.

    Raises:
        UserError: when there is nothing that can be checked.
    """
    names = (*DATA_SETS, *referring_set.NAMES, "folder")
    if name not in names:
        unknown_name(name, names, "data set")
    root = Path(root)
    found, checks, head = _checks(name, root)
    table = None if found is None else found.lookup
    count = 0 if found is None else len(found.classes)
    again = f"openseg data prepare {name} --root {root}"
    ours = found is None or found.layout == "prepared"
    fix = f"run {again} --again" if ours else "unpack or copy it again"
    call = functools.partial(_check, table, count, quick, f"{name} ({_layout(found)})", fix)
    pixels, pictures = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    problems, done = [], 0
    for results in pool.run(call, checks, workers or pool.cores()):
        for problem, shown in results:
            problems += [problem] if problem else []
            for index, number in shown.items():
                pixels[index] += number
                pictures[index] += 1
        done += len(results)
        if tell is not None:
            tell(f"verifying {name}", done / len(checks))
    problems = sorted(problems)
    published = tuple(head.get("published", ()))
    if found is not None and found.layout == "prepared" and not problems:
        problems += _compared(head, pixels, f"{root / 'prepared' / name}: ", f"{again} --again")
    if found is not None:
        problems += _counted(len(checks), published, head, f"{root}: ", again)
    for split, facts in head.get("splits", {}).items():
        where = f"{root}: {split}: "
        problems += _counted(facts["count"], facts["published"], head, where, again)
    notes = [
        f"{split}: {facts['count']} objects in {facts['pictures']} pictures, {facts['texts']} "
        f"expressions (published: {facts['published_pictures']} pictures)"
        for split, facts in head.get("splits", {}).items()
    ]
    if found is not None:
        notes += _notes(found, pictures)
    return Report(
        name, _layout(found), len(checks), published, () if found is None else found.classes,
        pixels[:-1], pictures[:-1], int(pixels[-1]), tuple(problems), tuple(notes),
    )  # fmt: skip


def _layout(found: LabelledSet | None) -> str:
    return "referring" if found is None else found.layout


def _checks(
    name: str, root: Path
) -> tuple[LabelledSet | None, Sequence[_Check], Mapping[str, Any]]:
    folder = root / "prepared" / name
    if name in referring_set.NAMES:
        if not (folder / "dataset.json").is_file():
            raise UserError(
                f"{folder}: {name} is not prepared; run openseg data prepare {name} --root {root}"
            )
        head, rows = read_prepared(folder, referring_set.FORMAT)
        size = [(row["height"], row["width"]) for row in rows]
        images = [root / row["image"] for row in rows]
        return None, [
            _Check(image, None, hw, None, row["mask"])
            for image, hw, row in zip(images, size, rows, strict=True)
        ], head  # fmt: skip
    if (folder / "dataset.json").is_file():
        head, rows = read_prepared(folder)
        found = open_prepared(folder, root)
        return found, [
            _Check(item.image, item.labels, (row["height"], row["width"]), row["sha256"], None)
            for item, row in zip(found.items, rows, strict=True)
        ], head  # fmt: skip
    if name != "folder" and (folder.with_name(f".{name}.partial")).exists():
        raise UserError(
            f"{folder}: preparing it was interrupted; run openseg data prepare {name} --root "
            f"{root}, which goes on where it stopped"
        )
    found = open_folder(root) if name == "folder" else open_set(name, root)
    checks = [_Check(item.image, item.labels, None, None, None) for item in found.items]
    return found, checks, found.facts


def _check(
    table: Int[np.ndarray, "V"] | None, count: int, quick: bool, owner: str, fix: str, check: _Check
) -> tuple[str, dict[int, int]]:
    """Checks one item: what is wrong, or ""; and the pixels of each class."""
    try:
        size, shown = check.size, {}
        if check.labels is not None and table is not None:
            if not check.labels.is_file():
                raise UserError(f"{check.labels}: the label map is missing; {fix}")
            if check.sha256 is not None and sha256(check.labels) != check.sha256:
                raise UserError(f"{check.labels}: is not what was written; {fix}")
            labels = read_classes(check.labels, table, owner)
            if size is not None and labels.shape != size:
                raise expected(
                    str(check.labels), f"{size[1]}x{size[0]}",
                    f"{labels.shape[1]}x{labels.shape[0]}", fix,
                )  # fmt: skip
            size = labels.shape[0], labels.shape[1]
            counts = np.bincount(np.where(labels < 0, count, labels).ravel(), minlength=count + 1)
            shown = {int(i): int(counts[i]) for i in np.flatnonzero(counts)}
        if check.mask is not None and not rle.decode(dict(check.mask)).any():
            raise UserError(f"{check.image}: the mask of an object in it is empty; {fix}")
        sizes = picture_sizes(check.image)
        if size is not None and size not in sizes:
            raise UserError(
                f"{check.image}: expected the size of its labels, {size[1]}x{size[0]}, got "
                f"{sizes[0][1]}x{sizes[0][0]}; unpack or copy the pictures again"
            )
        if not quick:
            read_image(check.image)
    except UserError as error:
        return str(error), {}
    except OSError as error:
        return f"{error.filename}: cannot be read ({error.strerror}); check its rights", {}
    return "", shown


def _compared(head: Mapping[str, Any], pixels: Any, where: str, again: str) -> list[str]:
    if head["histogram"] == pixels[:-1].tolist() and head["not_labelled"] == int(pixels[-1]):
        return []
    return [f"{where}the label histogram is not what dataset.json says; run {again}"]


def _counted(
    count: int, published: Sequence[int], head: Mapping[str, Any], where: str, again: str
) -> list[str]:
    if not published or count in published:
        return []
    what = f"{where}{count} items, but results are published on {published[0]}"
    if head.get("limited"):
        return [f"{what} (prepared with --limit {head['limited']}); run {again}"]
    return [f"{what}; get all of the archives' files, then run {again} --again"]


def _notes(found: LabelledSet, pictures: Int[np.ndarray, "C"]) -> list[str]:
    notes = []
    if found.facts.get("lacks_background"):
        notes.append(
            "background is not labelled in this layout; benchmarks that count it need the "
            f"official files: openseg data prepare {found.name}"
        )
    absent = [name for name, n in zip(found.classes, pictures, strict=False) if not n]
    if absent:
        few = ", ".join(absent[:8]) + (", …" if len(absent) > 8 else "")
        notes.append(f"{len(absent)} of {len(found.classes)} classes have no pixel: {few}")
    return notes


def to_json(report: Report) -> str:
    """Writes a report as JSON, the whole histogram in it."""
    rows = zip(report.classes, report.pixels.tolist(), report.pictures.tolist(), strict=True)
    return json.dumps(
        {
            "name": report.name, "layout": report.layout, "count": report.count,
            "published": report.published, "not_labelled": report.not_labelled,
            "histogram": [{"class": c, "pixels": p, "pictures": n} for c, p, n in rows],
            "problems": report.problems, "notes": report.notes,
        }, indent=1, ensure_ascii=False,
    )  # fmt: skip

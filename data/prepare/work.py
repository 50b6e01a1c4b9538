"""Running jobs in processes: from a job to a checked, written label map."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from openseg_jax.data.prepare import pool
from openseg_jax.data.prepare.base import Job, Made, Recipe, cannot_be_read, recipe, said
from PIL import Image

from openseg_jax.errors import UserError, describe, expected
from openseg_jax.files import atomic_write
from openseg_jax.inputs.labelled_set import ignore_value
from openseg_jax.types import Int

__all__ = ["Where", "do", "encode", "key", "picture_sizes", "run", "sha256"]

Row = dict[str, Any]

_ORIENTATION = 0x0112
# Label maps are runs: looking for nothing else takes two fifths of the default's time and makes
# files a little smaller.
_RUNS = {"compress_level": 1, "compress_type": zlib.Z_RLE}


@dataclasses.dataclass(frozen=True)
class Where:
    """What workers must know.

    Attributes:
        recipe: its name.
        root: the folder that paths of pictures start from.
        folder: that the label maps are written to.
    """

    recipe: str
    root: Path
    folder: Path


def run(where: Where, jobs: Sequence[Job], workers: int) -> Iterator[list[Row]]:
    """Yields rows of finished jobs as they come, in any order.

    Args:
        where: recipe and folders.
        jobs: to do.
        workers: processes, see `pool.run`.

    Raises:
        UserError: the first that a job raises.
    """
    yield from pool.run(functools.partial(do, where), jobs, workers)


@functools.cache
def _recipe(name: str) -> Recipe:
    return recipe(name)


def do(where: Where, job: Job) -> Row:
    """Makes, checks and writes the label map of a job.

    Returns:
        the item's row, with `pixels` (class -> pixels, C is "not labelled") and `key` besides;
        `labels` is "" where the recipe leaves the picture out. A referring set's row holds the
        mask itself; its `labels` is None.

    Raises:
        UserError: naming the file.
    """
    chosen = _recipe(where.recipe)
    try:
        made = chosen.make(job)
        row: Row = {"name": job.name, "image": _relative(job.image, where.root), "labels": ""}
        if made is None:
            return row | {"key": key(job, where.root)}
        if isinstance(made, Mapping):
            _check_size(job.image, (made["height"], made["width"]))
            return row | {"labels": None, **job.extra, **made, "key": key(job, where.root)}
        if isinstance(made, Made):
            labels, path = made.labels, f"images/{job.name}.jpg"
            _write(where.folder / path, made.picture)
            row["image"] = f"prepared/{where.recipe}/{path}"
            height, width = _check(chosen, job, labels)
        else:
            labels = made
            height, width = _check(chosen, job, labels)
            _check_size(job.image, labels.shape)
        data, pixels = encode(labels, len(chosen.classes))
        path = f"labels/{job.name}.png"
        _write(where.folder / path, data)
    except OSError as error:
        raise said(Path(error.filename or where.folder), error) from error
    return row | {
        "labels": path, "height": height, "width": width,
        "sha256": hashlib.sha256(data).hexdigest(), **job.extra,
        "pixels": {str(i): int(n) for i, n in enumerate(pixels) if n},
        "key": key(job, where.root),
    }  # fmt: skip


def encode(labels: Int[np.ndarray, "H W"], classes: int) -> tuple[bytes, Int[np.ndarray, "C1"]]:
    """Encodes labels as PNG.

    Args:
        labels: classes or -1.
        classes: C.

    Returns:
        the file; Int64[C + 1] pixels of each class, and of none.
    """
    top = ignore_value(classes)
    values = np.where(labels < 0, top, labels).astype(np.uint8 if top == 255 else np.uint16)
    counts = np.bincount(values.ravel(), minlength=top + 1)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", **_RUNS)
    return buffer.getvalue(), np.append(counts[:classes], counts[top])


def key(job: Job, root: Path) -> str:
    """Digest of all that a label map is made from; files count by size and time of change."""
    text = repr((job.name, _stamp(job.image, root), _stamp(job.data, root), dict(job.extra)))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def sha256(path: Path) -> str:
    """Hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(value: Any, root: Path) -> Any:
    if isinstance(value, Path):
        try:
            found = value.stat()
        except OSError:
            return str(value)
        return _relative(value, root), found.st_size, found.st_mtime_ns
    if isinstance(value, tuple | list):
        return [_stamp(part, root) for part in value]
    return value


def _relative(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _check(chosen: Recipe, job: Job, labels: Any) -> tuple[int, int]:
    if getattr(labels, "ndim", 0) != 2 or labels.dtype.kind not in "iub":
        raise expected(job.name, "Int[H W]", describe(labels), f"correct {chosen.name}'s recipe")
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low < -1 or high >= len(chosen.classes):
        raise expected(
            f"{job.image}", f"labels below {len(chosen.classes)}", str(high if low >= -1 else low),
            f"the label map of {job.name} does not belong to {chosen.title}; unpack it again",
        )  # fmt: skip
    return int(labels.shape[0]), int(labels.shape[1])


def _check_size(image: Path, size: tuple[int, ...]) -> None:
    found = picture_sizes(image)
    if tuple(size) not in found:
        raise UserError(
            f"{image}: expected the size of its labels, {size[1]}x{size[0]}, "
            f"got {found[0][1]}x{found[0][0]}; the two are not of one picture: unpack them again"
        )


def picture_sizes(path: Path) -> tuple[tuple[int, int], ...]:
    """(height, width) of a picture as stored, and as shown where its EXIF block turns it."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            return ((height, width), (width, height)) if turned else ((height, width),)
    except FileNotFoundError as error:
        raise UserError(f"{path}: the picture is missing; unpack the archive again") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise cannot_be_read(path, error) from error


def _write(path: Path, data: bytes) -> None:
    with atomic_write(path) as aside:
        aside.write_bytes(data)

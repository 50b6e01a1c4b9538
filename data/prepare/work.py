"""Running jobs in processes: from a job to a checked, written label map."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import io
import itertools
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from openseg_jax.data.prepare.base import Job, Recipe, recipe, said
from PIL import Image

from openseg_jax.errors import UserError, describe, expected
from openseg_jax.inputs.labelled_set import ignore_value
from openseg_jax.types import Int

__all__ = ["Where", "encode", "key", "run", "sha256"]

Row = dict[str, Any]

_FEW = 32  # so many jobs are done before processes have started
_CHUNK = 8  # jobs that go to a worker at a time
_AHEAD = 4  # chunks that wait for each worker
_ORIENTATION = 0x0112
# Label maps have long runs; the fastest level makes them a fifth larger than the default and
# takes a third of the time.
_COMPRESSION = 1


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
        workers: processes; with 1, or few jobs, everything happens in this one.

    Raises:
        UserError: the first that a job raises.
    """
    chunks = [jobs[i : i + _CHUNK] for i in range(0, len(jobs), _CHUNK)]
    if workers == 1 or len(jobs) <= _FEW:
        for chunk in chunks:
            yield [do(where, job) for job in chunk]
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(chunks)), mp_context=_context(), initializer=_start
    )
    try:
        rest = iter(chunks)
        waiting = {
            pool.submit(_chunk, where, chunk) for chunk in itertools.islice(rest, _AHEAD * workers)
        }
        while waiting:
            done, waiting = concurrent.futures.wait(
                waiting, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for chunk in itertools.islice(rest, len(done)):
                waiting.add(pool.submit(_chunk, where, chunk))
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, probably for lack of memory; run the same command "
            "with --workers 1"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _context() -> Any:
    # Never fork: the caller may run threads (JAX does) whose locks a fork would copy locked.
    name = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(name)
    if name == "forkserver":
        context.set_forkserver_preload([__name__])
    return context


def _start() -> None:
    # Ctrl-C reaches the whole group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _chunk(where: Where, jobs: Sequence[Job]) -> list[Row]:
    return [do(where, job) for job in jobs]


@functools.cache
def _recipe(name: str) -> Recipe:
    return recipe(name)


def do(where: Where, job: Job) -> Row:
    """Makes, checks and writes the label map of a job.

    Returns:
        the item's row, with `pixels` (class -> pixels, C is "not labelled") and `key` besides;
        `labels` is "" where the recipe leaves the picture out.

    Raises:
        UserError: naming the file.
    """
    chosen = _recipe(where.recipe)
    try:
        labels = chosen.make(job)
        row: Row = {"name": job.name, "image": _relative(job.image, where.root), "labels": ""}
        if labels is None:
            return row | {"key": key(job, where.root)}
        height, width = _check(chosen, job, labels)
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
    Image.fromarray(values).save(buffer, "PNG", compress_level=_COMPRESSION)
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
    size = _size(job.image)
    if labels.shape not in size:
        raise UserError(
            f"{job.image}: expected the size of its labels, {labels.shape[1]}x{labels.shape[0]}, "
            f"got {size[0][1]}x{size[0][0]}; the two are not of one picture: unpack them again"
        )
    return int(labels.shape[0]), int(labels.shape[1])


def _size(path: Path) -> tuple[tuple[int, int], ...]:
    """(height, width) of a picture as stored, and as shown where its EXIF block turns it."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            return ((height, width), (width, height)) if turned else ((height, width),)
    except FileNotFoundError as error:
        raise UserError(f"{path}: the picture is missing; unpack the archive again") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(
            f"{path}: cannot be read as a picture ({error}); unpack the archive again"
        ) from error


def _write(path: Path, data: bytes) -> None:
    """Writes a file that exists whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(data)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)

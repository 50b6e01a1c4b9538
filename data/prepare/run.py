"""Preparing a data set by its recipe, the same way for all.

Archives are unpacked, jobs run on all cores, each label map is checked and written, and the result
is put in place as a whole:

| path below the root | what it is |
|---|---|
| prepared/NAME/dataset.json | format, classes, source, licence, counts, label histogram, hash |
| prepared/NAME/items.jsonl | a row for each picture: paths, size, hash of its label map |
| prepared/NAME/labels/*.png | classes; 8 bits and 255, or 16 bits and 65535, for "not labelled" |
| prepared/NAME/images/*.jpg | pictures, for the sets that are evaluated on changed ones |
| prepared/.NAME.partial | work of a run that is under way, or was killed: the next one goes on |
| unpacked/ARCHIVE/ | archives that were found in the root, unpacked |

Other pictures are not copied. Referring sets have their masks in items.jsonl. A run that fails
leaves nothing of its own behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from openseg_jax.data.prepare import pool, work
from openseg_jax.data.prepare.archives import Tell, unpack
from openseg_jax.data.prepare.base import Job, Recipe, recipe, said

from openseg_jax.errors import UserError
from openseg_jax.files import atomic_write, locked
from openseg_jax.inputs import referring_set
from openseg_jax.inputs.labelled_set import FORMAT, ignore_value

__all__ = ["Prepared", "prepare"]

_JOURNAL = "done.jsonl"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a run of `prepare` did.

    Attributes:
        folder: of the prepared data set.
        count: pictures in it.
        made: label maps made by this run; the others were there from one that was interrupted.
        skipped: pictures without labels, left out.
        seconds: wall time, unpacking included.
        was_there: nothing was done: the data set was prepared already.
    """

    folder: Path
    count: int
    made: int
    skipped: int
    seconds: float
    was_there: bool = False


def prepare(
    name: str,
    root: str | os.PathLike[str],
    *,
    workers: int | None = None,
    limit: int | None = None,
    again: bool = False,
    tell: Tell | None = None,
) -> Prepared:
    """Prepares a data set.

    Args:
        name: of the data set.
        root: folder with its archives or folders; the result goes to `root`/prepared/NAME.
        workers: processes; None takes as many as there are cores.
        limit: prepare the first so many pictures only; for a first try.
        again: prepare it although it is there.
        tell: called with what is being done and the share that is done, 0 to 1.

    Raises:
        UserError: naming the file and what to do; nothing is left behind then. After an
            interruption the next call goes on where this one was.
    """
    start = time.monotonic()
    chosen, root = recipe(name), Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; put {chosen.get} into one and name it by --root")
    for option, value in (("--limit", limit), ("--workers", workers)):
        if value is not None and value < 1:
            raise UserError(f"{option}: expected 1 or more, got {value}; leave it out for all")
    tell = tell or (lambda what, share: None)
    final = root / "prepared" / name
    if not again and (found := _was_there(final, limit)) is not None:
        return dataclasses.replace(found, seconds=time.monotonic() - start)
    with _partial(final) as folder:
        jobs = _jobs(chosen, root, tell)[:limit]
        rows, made = _run(chosen, root, folder, jobs, workers or pool.cores(), tell)
        _finish(chosen, folder, rows, len(jobs) - len(rows), limit)
        _replace(folder, final)
    return Prepared(final, len(rows), made, len(jobs) - len(rows), time.monotonic() - start)


def _was_there(final: Path, limit: int | None) -> Prepared | None:
    try:
        head = json.loads((final / "dataset.json").read_text(encoding="utf-8"))
        known = head["format"] in (FORMAT, referring_set.FORMAT)
        if known and head["limited"] in (None, limit):
            return Prepared(final, head["count"], 0, head["skipped"], 0.0, was_there=True)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


@contextlib.contextmanager
def _partial(final: Path) -> Iterator[Path]:
    """Yields the folder to work in; takes it away on an error, keeps it after an interruption."""
    folder = final.with_name(f".{final.name}.partial")
    try:
        (folder / "labels").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise said(folder, error) from error
    with locked(folder):
        try:
            yield folder
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError):
                raise said(Path(error.filename or folder), error) from error
            raise


def _jobs(chosen: Recipe, root: Path, tell: Tell) -> Sequence[Job]:
    tell("looking for the files", 0.0)
    try:
        jobs = chosen.examples(root)
    except UserError:
        # Folders win over archives: people unpack by hand too, and then leave the archive there.
        if not unpack(root, chosen.archives, tell):
            raise
        jobs = chosen.examples(root)
    if not jobs:
        raise UserError(
            f"{root}: {chosen.title} holds no picture, the split is empty; {chosen.get}"
        )
    named: dict[str, Job] = {}
    for job in jobs:
        other = named.setdefault(job.name, job)
        if other is not job:
            raise UserError(
                f"{job.image}: {chosen.title} has {job.name!r} twice, here and at {other.image}; "
                "take one of the two out, or unpack it again"
            )
    return jobs


def _run(
    chosen: Recipe, root: Path, folder: Path, jobs: Sequence[Job], workers: int, tell: Tell
) -> tuple[list[dict[str, Any]], int]:
    """Makes what is missing; returns the rows in the order of the jobs, and how many it made."""
    done = _resumable(folder, root, jobs)
    todo = [job for job in jobs if job.name not in done]
    kept = len(done)
    where = work.Where(chosen.name, root, folder)
    with (folder / _JOURNAL).open("a", encoding="utf-8") as journal:
        for rows in work.run(where, todo, workers):
            for row in rows:
                journal.write(json.dumps(row) + "\n")
                done[row["name"]] = row
            journal.flush()
            tell(f"preparing {chosen.name}", len(done) / len(jobs))
    rows = [done[job.name] for job in jobs]
    return [row for row in rows if row["labels"] != ""], len(rows) - kept


def _resumable(folder: Path, root: Path, jobs: Sequence[Job]) -> dict[str, dict[str, Any]]:
    """Finds what an interrupted run has made from the same files, and is whole."""
    journal = folder / _JOURNAL
    wanted = {job.name: job for job in jobs}
    done: dict[str, dict[str, Any]] = {}
    for line in journal.read_text(encoding="utf-8").splitlines() if journal.exists() else ():
        try:
            row = json.loads(line)
            name, labels = row["name"], row["labels"]
        except (ValueError, KeyError, TypeError):
            continue  # the line that was being written when the run was killed
        if name in wanted and row["key"] == work.key(wanted[name], root):
            path = folder / labels if labels else None
            own = _own_picture(row, folder)
            if (path is None or (path.is_file() and work.sha256(path) == row["sha256"])) and (
                not own or (folder / own).is_file()
            ):
                done[name] = row
    # What a stopped run wrote for other jobs must not become part of the result.
    keep = {row["labels"] for row in done.values()}
    keep |= {_own_picture(row, folder) for row in done.values()}
    for path in (*(folder / "labels").rglob("*"), *(folder / "images").rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in keep:
            path.unlink()
    with atomic_write(journal) as aside:
        aside.write_text("".join(json.dumps(row) + "\n" for row in done.values()))
    return done


def _own_picture(row: dict[str, Any], folder: Path) -> str:
    """The path of a picture that was written for the row, within the folder; "" for none."""
    own = f"prepared/{folder.name.removeprefix('.').removesuffix('.partial')}/"
    return row["image"].removeprefix(own) if row["image"].startswith(own) else ""


def _finish(
    chosen: Recipe, folder: Path, rows: list[dict[str, Any]], skipped: int, limit: int | None
) -> None:
    if not rows:
        raise UserError(f"{chosen.name}: no picture has labels; check the files that were given")
    left_out = ("pixels", "key", "source") if chosen.task == "semantic" else ("labels", "key")
    lines = (json.dumps({k: v for k, v in row.items() if k not in left_out}) for row in rows)
    items = ("\n".join(lines) + "\n").encode()
    head = {
        "format": FORMAT if chosen.task == "semantic" else referring_set.FORMAT,
        "name": chosen.name, "title": chosen.title, "task": chosen.task, "count": len(rows),
        "skipped": skipped, "limited": limit, "licence": chosen.licence,
        # A recipe that has several ways says which one it took.
        "source": rows[0].get("source", chosen.source),
        "sha256": hashlib.sha256(items).hexdigest(),
        **(_of_classes if chosen.task == "semantic" else _of_splits)(chosen, rows),
    }  # fmt: skip
    with atomic_write(folder / "items.jsonl") as aside:
        aside.write_bytes(items)
    with atomic_write(folder / "dataset.json") as aside:
        aside.write_text(json.dumps(head, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / _JOURNAL).unlink()
    if chosen.task == "referring":
        (folder / "labels").rmdir()


def _of_classes(chosen: Recipe, rows: list[dict[str, Any]]) -> dict[str, Any]:
    histogram = np.zeros(len(chosen.classes) + 1, np.int64)  # the last is "not labelled"
    for row in rows:
        histogram[[int(index) for index in row["pixels"]]] += list(row["pixels"].values())
    return {
        "vocabulary": chosen.vocabulary, "classes": chosen.classes,
        "background": chosen.background, "ignore": ignore_value(len(chosen.classes)),
        "published": chosen.counts, "histogram": histogram[:-1].tolist(),
        "not_labelled": int(histogram[-1]),
    }  # fmt: skip


def _of_splits(chosen: Recipe, rows: list[dict[str, Any]]) -> dict[str, Any]:
    splits = {}
    for split in dict.fromkeys(row["split"] for row in rows):
        mine = [row for row in rows if row["split"] == split]
        objects, pictures = chosen.splits.get(split, (None, None))
        splits[split] = {
            "count": len(mine), "published": [objects] if objects else [],
            "pictures": len({row["image"] for row in mine}), "published_pictures": pictures,
            "texts": sum(len(row["texts"]) for row in mine),
        }  # fmt: skip
    return {"splits": splits}


def _replace(folder: Path, final: Path) -> None:
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.replace(final, old)
    os.replace(folder, final)
    shutil.rmtree(old, ignore_errors=True)

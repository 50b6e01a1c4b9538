"""Tar shards of pictures with captions, as img2dataset writes them, with random access.

A shard holds `KEY.jpg` with `KEY.txt` and `KEY.json` beside one another; parquet and statistics
files around the shards are not needed. Each shard's index (where each picture and caption starts)
is built once by reading its headers, and kept in `SHARD.index.npz`.
"""

from __future__ import annotations

import bisect
import dataclasses
import glob
import hashlib
import itertools
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from absl import logging

from openseg_jax.errors import UserError, expected
from openseg_jax.files import atomic_write
from openseg_jax.types import Int

IMAGES = ("jpg", "jpeg", "png", "webp")
CAPTIONS = ("txt", "json")  # in order of preference
_VERSION = 1
_COLUMNS = 5
_MOST_SHARDS = 1_000_000


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """Where the pairs of a shard are.

    Attributes:
        table: Int64[n 5], a row a pair: start and size of the picture, start and size of the
            caption (0 0 without one), and whether the caption is JSON.
        problem: what is wrong with the shard, "" for nothing. Its sound beginning is in `table`.
    """

    table: Int[np.ndarray, "n 5"]
    problem: str = ""


class TarShards:
    """Pairs of tar shards; see `inputs.pairs.Pairs`.

    Args:
        shards: a folder, a file, or a pattern with `*`, `?`, `{00000..00331}` and `{a,b}`;
            several of these joined by "::".
        cache: folder for the indexes; "" puts them beside the shards, where that is allowed.

    Raises:
        UserError: when no shard is found, or none holds a picture.
    """

    def __init__(self, shards: str | os.PathLike[str], cache: str = "") -> None:
        self.paths = expand_shards(shards)
        with ThreadPoolExecutor(8) as pool:
            indexes = list(pool.map(lambda path: load_index(path, cache), self.paths))
        self.problems = tuple(
            f"{path}: {index.problem}"
            for path, index in zip(self.paths, indexes, strict=True)
            if index.problem
        )
        for problem in self.problems:
            logging.warning("%s", problem)
        self._table = np.concatenate([index.table for index in indexes])
        self._starts = np.cumsum([0, *(len(index.table) for index in indexes)]).tolist()
        if not len(self):
            raise expected(
                str(shards), "tar files with KEY.jpg and KEY.txt or KEY.json inside",
                self.problems[0] if self.problems else "none in them", "give other shards",
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> tuple[bytes, str]:
        start, size, text_start, text_size, is_json = self._table[index].tolist()
        with self._shard(index).open("rb") as file:
            file.seek(start)
            image = file.read(size)
            file.seek(text_start)
            caption = file.read(text_size).decode("utf-8", "replace")
        return image, _from_json(caption) if is_json else caption

    def name(self, index: int) -> str:
        """Says which pair of which shard it is."""
        shard = bisect.bisect_right(self._starts, index) - 1
        return f"{self.paths[shard]}: pair {index - self._starts[shard]}"

    def _shard(self, index: int) -> Path:
        return self.paths[bisect.bisect_right(self._starts, index) - 1]


def expand_shards(shards: str | os.PathLike[str]) -> list[Path]:
    """Lists the files that a folder or pattern names, in order.

    Raises:
        UserError: when there is none, or one that a range names is missing.
    """
    text = os.fspath(shards)
    if "://" in text:
        raise expected("input.path", "files on this machine", text, "copy or mount them first")
    found = []
    for part in text.split("::"):
        part = f"{glob.escape(part)}/*.tar" if Path(part).is_dir() else part
        for pattern in itertools.islice(_braces(part), _MOST_SHARDS):
            paths = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
            found += [Path(path) for path in paths]
    missing = [path for path in found if not path.is_file()]
    if missing or not found:
        got = f"no {missing[0]}" if missing else "none"
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise expected("input.path", f"tar shards ({text})", got + more, "correct the pattern")
    return found


def _braces(text: str) -> Iterator[str]:
    """Expands {00..12} and {a,b} as shells do."""
    match = re.search(r"\{([^{}]*)\}", text)
    if match is None:
        yield text
        return
    inside = match[1]
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if bounds is None:
        choices: Sequence[str] = inside.split(",")
    else:
        first, last = int(bounds[1]), int(bounds[2])
        width = len(bounds[1]) if bounds[1].startswith("0") else 0
        choices = [f"{number:0{width}d}" for number in range(first, last + 1)]
    for choice in choices:
        yield from _braces(text[: match.start()] + choice + text[match.end() :])


def load_index(path: Path, cache: str = "") -> ShardIndex:
    """Reads a shard's index from its file, or builds and keeps it.

    Args:
        path: the shard.
        cache: folder for the indexes; "" puts it beside the shard.
    """
    facts = path.stat()
    stamp = np.array([_VERSION, facts.st_size, facts.st_mtime_ns], np.int64)
    kept = _index_path(path, cache)
    try:
        with np.load(kept, allow_pickle=False) as file:
            if np.array_equal(file["stamp"], stamp):
                return ShardIndex(file["table"], str(file["problem"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not there yet, of another version, or damaged: it is built anew
    index = build_index(path)
    try:
        with atomic_write(kept) as aside, aside.open("wb") as file:
            np.savez(file, stamp=stamp, table=index.table, problem=np.array(index.problem))
    except UserError as error:
        logging.log_first_n(
            logging.WARNING, "tar indexes are not kept (%s); set input.cache to a folder", 1, error
        )
    return index


def _index_path(path: Path, cache: str) -> Path:
    if not cache:
        return path.with_name(path.name + ".index.npz")
    # Shards of different data sets share names.
    digest = hashlib.blake2b(os.fsencode(path.absolute()), digest_size=8).hexdigest()
    return Path(cache) / f"{path.name}.{digest}.index.npz"


def build_index(path: Path) -> ShardIndex:
    """Finds the pairs of a shard by its headers; members of one key stand side by side."""
    rows: list[list[int]] = []
    size, problem = path.stat().st_size, ""
    key, image, captions = None, None, {}

    def close() -> None:
        if image is not None:
            kind = next((kind for kind in CAPTIONS if kind in captions), "")
            rows.append([*image, *captions.get(kind, (0, 0)), int(kind == "json")])

    end = 0
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                end = member.offset_data + member.size
                if not member.isfile() or end > size:
                    continue
                folder, _, file = member.name.rpartition("/")
                stem, _, suffix = file.partition(".")
                suffix = suffix.lower()
                if (folder, stem) != key:
                    close()
                    key, image, captions = (folder, stem), None, {}
                if suffix in IMAGES:
                    image = (member.offset_data, member.size)
                elif suffix in CAPTIONS:
                    captions[suffix] = (member.offset_data, member.size)
            end = shard.offset
        if not _ends_properly(path, end):
            problem = "the tar is damaged or cut short"
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        problem = f"the tar is damaged or cut short ({error})"
    close()
    if problem:
        problem += f"; {len(rows)} pairs before that are used, download it again for the rest"
    table = np.array(rows, np.int64).reshape(-1, _COLUMNS)
    return ShardIndex(table, problem)


def _ends_properly(path: Path, end: int) -> bool:
    """Tells whether the zero block of an archive's end is where the members end.

    Python's reader takes any broken header after the first for the end.
    """
    with path.open("rb") as file:
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
    return len(block) == tarfile.BLOCKSIZE and not any(block)


def _from_json(text: str) -> str:
    try:
        data = json.loads(text)
    except ValueError:
        return ""
    caption = data.get("caption") if isinstance(data, dict) else None
    return caption if isinstance(caption, str) else ""

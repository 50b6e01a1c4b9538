"""Finding a data set's pictures and label maps in the folders of other projects."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from openseg_jax.errors import UserError, expected
from openseg_jax.inputs.data_sets import DataSet, Layout

__all__ = ["UNPACKED", "Found", "find", "find_path", "listing"]

UNPACKED = "unpacked"
"""Subfolder of the root where `openseg data prepare` unpacks archives, one folder for each."""


@dataclasses.dataclass(frozen=True)
class Found:
    """A data set in a layout.

    Attributes:
        layout: how its files lie.
        images: folder of the pictures.
        labels: folder of the label maps.
        files: (name, picture, label map) of each item, sorted by name or as listed.
    """

    layout: Layout
    images: Path
    labels: Path
    files: tuple[tuple[str, Path, Path], ...]


def find(facts: DataSet, root: Path, *, whole: bool = False) -> Found:
    """Looks for a data set in the layouts that are known.

    Args:
        facts: the data set.
        root: folder to search in.
        whole: leave out layouts that lack the background.

    Raises:
        UserError: when no layout is there, or one is there with files missing.
    """
    half = ""
    for layout in facts.layouts:
        if whole and layout.lacks_background:
            continue
        labels = find_path(root, layout.labels, layout.label_end, layout.not_ends)
        images = find_path(root, layout.images, layout.image_end)
        if labels and images:
            return Found(
                layout, images, labels, tuple(_pairs(facts.name, layout, root, images, labels))
            )
        if labels or images:
            there, folders = (labels, layout.images) if labels else (images, layout.labels)
            ends = layout.image_end if labels else layout.label_end
            half = half or f"there is {there} but no {_choices(folders)} with *{ends} files"
    wanted = dict.fromkeys(_plain(folder) for one in facts.layouts for folder in one.labels)
    raise UserError(
        f"{root}: holds no {facts.title} that can be read"
        + (f" ({half})" if half else f" (looked for prepared/{facts.name}, {', '.join(wanted)})")
        + f"; put {facts.get} there and run openseg data prepare {facts.name} --root {root}"
    )


def find_path(
    root: Path, choices: tuple[str, ...], end: str = "", not_ends: tuple[str, ...] = ()
) -> Path | None:
    """Finds the first of several paths below a root.

    Args:
        root: given by the user; archives unpacked below it are searched too.
        choices: paths, see `Layout` for "|".
        end: the path must be a folder that holds a file with such a name, in subfolders too;
            "" takes files and folders as they are.
        not_ends: names whose stems end so do not count.
    """
    for choice in choices:
        base, _, rest = choice.rpartition("|")
        parts = Path(base).parts
        for start in _starts(root):
            for skip in range(len(parts) + 1):
                path = start.joinpath(*parts[skip:], rest)
                if not end and path.exists():
                    return path
                if end and path.is_dir() and next(_walk(path, (end,), not_ends), None):
                    return path
    return None


def listing(folder: Path, ends: tuple[str, ...], not_ends: tuple[str, ...] = ()) -> dict[str, Path]:
    """Lists files by the path within the folder, without the ending.

    Args:
        folder: searched with its subfolders; none is an empty listing.
        ends: endings that count, in any case of letters.
        not_ends: names whose stems end so do not count.

    Raises:
        UserError: when two files differ in their ending alone.
    """
    found: dict[str, Path] = {}
    for name, path in sorted(_walk(folder, ends, not_ends)) if folder.is_dir() else ():
        if found.setdefault(name, path) != path:
            raise UserError(f"{path}: has the name of {found[name]}; take one of the two out")
    return found


def _walk(
    folder: Path, ends: tuple[str, ...], not_ends: tuple[str, ...]
) -> Iterator[tuple[str, Path]]:
    lower = tuple(end.lower() for end in ends)
    for where, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        within = Path(where).relative_to(folder)
        for name in sorted(names):
            if not name.lower().endswith(lower) or name.startswith("."):
                continue
            if not_ends and Path(name).stem.endswith(not_ends):
                continue
            end = next(e for e in lower if name.lower().endswith(e))
            yield (within / name[: len(name) - len(end)]).as_posix(), Path(where) / name


def _starts(root: Path) -> list[Path]:
    unpacked = root / UNPACKED
    found = sorted(unpacked.iterdir()) if unpacked.is_dir() else []
    # A name that starts with a dot is an archive that is being unpacked.
    inner = [path for path in found if path.is_dir() and not path.name.startswith(".")]
    return [root, *inner, unpacked]


def _pairs(
    name: str, layout: Layout, root: Path, images: Path, labels: Path
) -> Iterator[tuple[str, Path, Path]]:
    listed = find_path(root, layout.lists)
    pictures = listing(images, (layout.image_end,))
    maps = listing(labels, (layout.label_end,), layout.not_ends)
    if layout.lists and listed is None:
        raise UserError(
            f"{labels}: the list of its pictures, {_choices(layout.lists)}, is missing; copy it "
            f"there, or run openseg data prepare {name} --root {root}"
        )
    names = list(maps) if listed is None else read_list(listed)
    for what, files, folder, end in (
        ("picture", pictures, images, layout.image_end),
        ("label map", maps, labels, layout.label_end),
    ):
        missing = [name for name in names if name not in files]
        if missing:
            raise UserError(
                f"{folder / (missing[0] + end)}: the {what} is missing "
                f"({len(missing)} of {len(names)} are); unpack the archive again"
            )
    # Items go by the file's name alone: that is what published lists hold, and what counts are
    # kept by.
    taken: dict[str, str] = {}
    for name in names:
        item = Path(name).name
        if taken.setdefault(item, name) != name:
            raise UserError(
                f"{pictures[name]}: has the name of {pictures[taken[item]]}, and pictures are told "
                f"apart by it; rename one of the two and its label map, or take one out"
            )
        yield item, pictures[name], maps[name]


def read_list(path: Path) -> list[str]:
    """Reads a file that names the items of a split, a name in a line.

    Raises:
        UserError: when it cannot be read, names nothing or names an item twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); unpack the archive again") from error
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise UserError(f"{path}: names no picture, the split is empty; unpack the archive again")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise expected(str(path), "each name once", f"{twice!r} twice", "unpack the archive again")
    return names


def _plain(choice: str) -> str:
    return choice.replace("|", "/")


def _choices(choices: tuple[str, ...]) -> str:
    return " or ".join(map(_plain, choices))

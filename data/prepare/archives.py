"""Unpacking archives that nobody has to trust: .zip, .tar and compressed .tar.

An archive becomes the folder unpacked/NAME as a whole or not at all. Members may not leave that
folder, and may not be links or devices. One that is cut short is refused by name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import json
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from openseg_jax.errors import UserError, expected
from openseg_jax.files import atomic_folder, disk_is_full, locked
from openseg_jax.inputs.label_layouts import UNPACKED

__all__ = ["Archive", "Tell", "unpack"]

Tell = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, 0 to 1."""

_STAMP = ".archive.json"
_BLOCK = 1 << 20
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError,
    RuntimeError, ValueError,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Archive:
    """An archive that people download.

    Attributes:
        pattern: of its file name, e.g. "VOCtrainval_11-May-2012*.tar".
        keep: patterns of the members to unpack, e.g. "*/JPEGImages/*"; () unpacks all.
    """

    pattern: str
    keep: tuple[str, ...] = ()


def unpack(root: Path, archives: tuple[Archive, ...], tell: Tell) -> list[Path]:
    """Unpacks the archives that lie in `root`, except what is unpacked already.

    Args:
        root: folder of the archives; they go to `root`/unpacked/NAME.
        archives: to look for.
        tell: progress.

    Returns:
        the folders of all that were found, unpacked now or before.

    Raises:
        UserError: naming the archive, when it is damaged, unsafe, or the disk is full; nothing of
            it is left behind.
    """
    folders = []
    for archive in archives:
        for path in sorted(root.glob(archive.pattern)):
            if not path.is_file():
                continue
            folder = root / UNPACKED / _stem(path.name)
            folders.append(folder)
            stamp = _stamp_of(path, archive)
            if _read_stamp(folder) == stamp:
                continue
            with locked(path, wait=True):
                if _read_stamp(folder) != stamp:
                    for left in folder.parent.glob(f".{folder.name}.*"):  # by a run that was killed
                        shutil.rmtree(left, ignore_errors=True)
                    _unpack(path, folder, archive.keep, stamp, tell)
    return folders


def _unpack(path: Path, folder: Path, keep: tuple[str, ...], stamp: Any, tell: Tell) -> None:
    again = "download it again"
    try:
        zipped = zipfile.is_zipfile(path)
        if not zipped and not tarfile.is_tarfile(path):
            raise expected(
                str(path), "a whole .zip or .tar archive",
                f"{path.stat().st_size} bytes that are none, or the start of one", again,
            )  # fmt: skip
        with atomic_folder(folder) as aside:
            members = _zip_members if zipped else _tar_members
            count = 0
            for name, file, share in members(path, keep):
                _copy(file, aside / name)
                count += 1
                tell(f"unpacking {path.name}", share)
            if not count:
                raise expected(
                    str(path), f"files like {', '.join(keep) or '*'}", "none", "check the archive"
                )
            (aside / _STAMP).write_text(json.dumps(stamp))
    except UserError as error:
        if isinstance(error.__cause__, OSError) and disk_is_full(error.__cause__):
            raise _disk_full(folder, path) from error
        raise
    except OSError as error:
        if disk_is_full(error):
            raise _disk_full(folder, path) from error
        raise UserError(
            f"{path}: cannot be unpacked ({error.strerror or error}); check it and its rights"
        ) from error
    except _DAMAGE as error:
        raise UserError(
            f"{path}: the archive is damaged or cut short ({error or type(error).__name__}; "
            f"{path.stat().st_size} bytes are there); {again}"
        ) from error


def _zip_members(path: Path, keep: tuple[str, ...]) -> Iterator[tuple[str, IO[bytes], float]]:
    with zipfile.ZipFile(path) as archive:
        chosen = [
            info for info in archive.infolist() if not info.is_dir() and _kept(info.filename, keep)
        ]
        total = sum(info.file_size for info in chosen)
        _check_space(path, total)
        done = 0
        for info in chosen:
            name = _safe(path, info.filename)
            if (info.external_attr >> 16) & 0o170000 not in (0, 0o100000):
                raise _unsafe(path, info.filename, "is a link or a device")
            done += info.file_size
            with archive.open(info) as file:
                yield name, file, done / max(total, 1)


class _Watched(tarfile.TarInfo):
    """Remembers how reading headers ended; TarFile itself ends quietly where a file is cut."""

    @classmethod
    def fromtarfile(cls, tarfile: Any) -> Any:
        """Reads the next header."""
        try:
            return super().fromtarfile(tarfile)
        except Exception as error:
            tarfile.ended_by = error
            raise


def _tar_members(path: Path, keep: tuple[str, ...]) -> Iterator[tuple[str, IO[bytes], float]]:
    size = max(path.stat().st_size, 1)
    with path.open("rb") as raw, tarfile.open(fileobj=raw, tarinfo=_Watched) as opened:
        archive: Any = opened
        for info in archive:
            # TarFile keeps every member; a large archive has hundreds of thousands.
            archive.members = []
            if info.isdir() or not _kept(info.name, keep):
                continue
            name = _safe(path, info.name)
            file = archive.extractfile(info) if info.isreg() else None
            if file is None:
                raise _unsafe(path, info.name, "is a link or a device")
            with file:
                yield name, file, min(raw.tell() / size, 1.0)
        ended = getattr(archive, "ended_by", None)
        if type(ended).__name__ != "EOFHeaderError":
            raise tarfile.ReadError("it has no end mark")
        while archive.fileobj.read(_BLOCK):
            pass  # to the end, where compressed files have their checksum


def _kept(name: str, keep: tuple[str, ...]) -> bool:
    # Finder's resource forks, in archives that were packed on a Mac.
    if name.startswith("__MACOSX/") or PurePosixPath(name).name.startswith("._"):
        return False
    return not keep or any(fnmatch.fnmatchcase(name, pattern) for pattern in keep)


def _safe(path: Path, name: str) -> str:
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\\" in name or ":" in name or "\0" in name:
        raise _unsafe(path, name, "would be written outside the folder")
    return "/".join(parts)


def _unsafe(path: Path, name: str, why: str) -> UserError:
    return UserError(
        f"{path}: refused, its member {name!r} {why}; get the archive from its authors again"
    )


def _copy(source: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(source, file, _BLOCK)


def _check_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise UserError(
            f"{path}: unpacking takes {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
            "free some space, or name another --root"
        )


def _disk_full(folder: Path, path: Path) -> UserError:
    return UserError(
        f"{folder}: the disk is full, {path.name} could not be unpacked (nothing of it was left "
        "behind); free some space and run the same command again"
    )


def _stem(name: str) -> str:
    for end in (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2"):
        if name.lower().endswith(end):
            return name[: -len(end)]
    return name


def _stamp_of(path: Path, archive: Archive) -> dict[str, Any]:
    found = path.stat()
    return {
        "archive": path.name, "bytes": found.st_size, "changed": found.st_mtime_ns,
        "keep": list(archive.keep),
    }  # fmt: skip


def _read_stamp(folder: Path) -> Any:
    with contextlib.suppress(OSError, ValueError):
        return json.loads((folder / _STAMP).read_text(encoding="utf-8"))
    return None

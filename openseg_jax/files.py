"""Writing files so that nobody ever sees half of one, and no two runs write the same."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from openseg_jax.errors import UserError


def disk_is_full(error: OSError) -> bool:
    """Whether an error says that the disk, or a person's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def cannot_write(path: Path, error: OSError) -> UserError:
    """Says what an error in writing means for the person."""
    if disk_is_full(error):
        return UserError(
            f"{path}: the disk is full; free some space and run the same command again "
            "(nothing unfinished was left behind)"
        )
    reason = error.strerror or str(error)
    return UserError(f"{path}: cannot write ({reason}); choose another place or free some space")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a path beside `path` to write to, and renames it into place on success.

    On an error the part-written file is removed and `path` is as it was.

    Raises:
        UserError: when the folder or the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise cannot_write(path, error) from error
    aside = Path(name)
    try:
        yield aside
        # mkstemp makes files that only the owner can read; give what umask would have given.
        aside.chmod(0o666 & ~_umask())
        os.replace(aside, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields an empty folder beside `path`, and renames it into place on success.

    An existing folder at `path` is replaced as a whole; on an error it is left as it was.

    Raises:
        UserError: when the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield aside
        aside.chmod(0o777 & ~_umask())
        if path.exists():
            _exchange(aside, path)
        else:
            os.replace(aside, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(new: Path, path: Path) -> None:
    """Puts a folder in the place of another and removes that one, or leaves that one there."""
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    try:
        os.replace(path, old / path.name)
        try:
            os.replace(new, path)
        except OSError:
            os.replace(old / path.name, path)
            raise
    except OSError:
        with contextlib.suppress(OSError):  # not empty where even going back failed
            old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds a file or folder for this process; the system lets go of it when the process ends.

    Where there are no such locks (Windows, some network file systems) nothing is held.

    Args:
        path: that exists.
        wait: for another run to let go of it.

    Raises:
        UserError: when another run holds it, unless `wait`.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(handle)
            raise UserError(
                f"{path}: another run is at work in it; wait for that one to end"
            ) from error
    try:
        yield
    finally:
        os.close(handle)


def nearest_path(path: Path) -> str:
    """Says, after "there is no such file", what there is."""
    try:
        names = os.listdir(path.parent)
    except OSError:
        return f"there is no folder {path.parent}; check the path"
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {path.parent / near[0]}?" if near else "check the path"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""Keeps a copy of a work folder and a log in a bucket, for disks that go with their machine.

    python mirror.py fetch work gs://BUCKET/RUN               # before the first try: what was kept
    python mirror.py keep work gs://BUCKET/RUN --log log.txt  # copies what has changed since

Checkpoints are not its business: the trainer writes these to the bucket itself. Each host of a
job calls it on a folder of its own; files that a host did not change since it fetched them are
not sent, so that hosts do not overwrite one another's. Runs on the machines, with their gcsfs.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Below the bucket's folder: the trainer's, and ours.
CHECKPOINTS, LOGS = "checkpoints", "logs"


def fetch(folder: Path, there: str, fs: Any) -> int:
    """Copies what the bucket has to a folder that is not there yet; returns the number of files."""
    if folder.exists():
        return 0
    aside = folder.with_name(f"{folder.name}.new")
    aside.mkdir(parents=True, exist_ok=True)
    count = 0
    # Not `fs.exists`, which takes a network that is down for a folder that is not there.
    for path in sorted(fs.find(there)):
        name = path.removeprefix(there.rstrip("/") + "/")
        # Consoles make empty objects whose names end in "/" and call them folders.
        if name.split("/")[0] in (CHECKPOINTS, LOGS) or name.endswith("/"):
            continue
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        fs.get_file(path, str(aside / name))
        count += 1
    _remember(aside, _stamps(aside))
    os.replace(aside, folder)
    return count


def keep(folder: Path, there: str, fs: Any, log: Path | None = None) -> int:
    """Copies to the bucket what has changed since the last call; returns the number of files."""
    count = 0
    if folder.is_dir():
        known, now = _recall(folder), _stamps(folder)
        for name in sorted(now):
            if known.get(name) != now[name]:
                fs.put_file(str(folder / name), f"{there.rstrip('/')}/{name}")
                count += 1
        _remember(folder, now)
    if log is not None and log.is_file():
        fs.put_file(str(log), f"{there.rstrip('/')}/{LOGS}/{socket.gethostname()}.txt")
    return count


def _stamps(folder: Path) -> dict[str, list[int]]:
    """Returns size and time of each file but checkpoints, locks and files still being written."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/"))
        if hidden or name.split("/")[0] == CHECKPOINTS or not path.is_file():
            continue
        stat = path.stat()
        found[name] = [stat.st_size, stat.st_mtime_ns]
    return found


def _memory(folder: Path) -> Path:
    return folder / ".mirror.json"


def _recall(folder: Path) -> dict[str, list[int]]:
    try:
        return json.loads(_memory(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _remember(folder: Path, stamps: dict[str, list[int]]) -> None:
    aside = folder / ".mirror.new"
    aside.write_text(json.dumps(stamps), encoding="utf-8")
    os.replace(aside, _memory(folder))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; a bucket that cannot be reached is one line and code 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("verb", choices=("fetch", "keep"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("there", help="gs://BUCKET/FOLDER")
    parser.add_argument("--log", type=Path)
    args = parser.parse_args(argv)
    try:
        import fsspec

        fs, there = fsspec.core.url_to_fs(args.there)
        if args.verb == "fetch":
            count = fetch(args.folder, there, fs)
            print(f"launch: {count} files of {args.there} fetched")
        else:
            keep(args.folder, there, fs, args.log)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        print(f"launch: {args.there}: cannot {args.verb} ({reason})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

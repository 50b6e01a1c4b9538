"""What was started from here and not deleted: options to fall back on, and a reminder of costs.

A record is a convenience of this computer. The truth is in the cloud: `--status` asks there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def folder() -> Path:
    """Returns where records lie: `$OPENSEG_LAUNCH_HOME`, or `~/.config/openseg_jax/launch`."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(os.environ.get("OPENSEG_LAUNCH_HOME") or Path(base) / "openseg_jax" / "launch")


def load(target: str, name: str) -> dict[str, Any]:
    """Returns a run's options, or none."""
    try:
        found = json.loads(_file(target, name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def save(target: str, name: str, options: dict[str, Any]) -> None:
    """Writes a run's options."""
    file = _file(target, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.new")
    aside.write_text(json.dumps(options, indent=2) + "\n", encoding="utf-8")
    os.replace(aside, file)


def forget(target: str, name: str) -> None:
    """Removes a run's record."""
    _file(target, name).unlink(missing_ok=True)


def known() -> list[tuple[str, str]]:
    """Returns target and name of all runs with a record."""
    return [(p.parent.name, p.stem) for p in sorted(folder().glob("*/*.json"))]


def _file(target: str, name: str) -> Path:
    return folder() / target / f"{name}.json"

"""What lies in a folder of one data set: prepared, as other projects lay it out, or archives."""

from __future__ import annotations

import json
from pathlib import Path

from openseg_jax.data.prepare.base import recipe

from openseg_jax.errors import UserError
from openseg_jax.inputs import label_layouts
from openseg_jax.inputs.data_sets import DATA_SETS

__all__ = ["status"]


def status(name: str, root: Path) -> str:
    """Says in a line what there is of a data set, and the command that comes next."""
    folder = root / "prepared" / name
    command = f"openseg data prepare {name} --root {root}"
    try:
        head = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        limited = f" (--limit {head['limited']})" if head.get("limited") else ""
        return f"prepared: {head['count']} items{limited}"
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if folder.with_name(f".{name}.partial").exists():
        return f"prepared in part; go on with: {command}"
    if name in DATA_SETS:
        try:
            found = label_layouts.find(DATA_SETS[name], root)
            return f"readable as it lies: {found.layout.style} layout, {len(found.files)} items"
        except UserError:
            pass
    wanted = recipe(name).archives
    archives = [[path.name for path in sorted(root.glob(one.pattern))] for one in wanted]
    if any(archives):
        # Some archives stand for each other, so what is not there need not be missing.
        needs = "" if all(archives) else f"; needs {recipe(name).get}"
        names = ", ".join(name for some in archives for name in some)
        return f"archives: {names}; run: {command}{needs}"
    return f"not here; needs {recipe(name).get}"

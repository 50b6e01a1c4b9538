"""Joins the modules that read an exported folder into the one file that lies in it."""

from __future__ import annotations

import ast
from pathlib import Path

__all__ = ["source"]

# In the order of their imports; the last one's docstring and entry point are the file's.
_PARTS = ("words", "canvas", "reading", "run")
_OWN = "openseg_jax"


def source() -> str:
    """Returns the text of run.py: it imports nothing of this package."""
    whole: set[str] = set()
    named: dict[str, set[str]] = {}
    bodies, docstring = [], ""
    for part in _PARTS:
        text = Path(__file__).with_name(f"{part}.py").read_text(encoding="utf-8")
        lines, tree = text.splitlines(), ast.parse(text)
        first, *rest = tree.body
        docstring = "\n".join(lines[: first.end_lineno])
        dropped = set(_lines(first))
        for node in rest:
            if isinstance(node, ast.Import):
                whole.add(ast.unparse(node))
            elif isinstance(node, ast.ImportFrom):
                if not str(node.module).startswith(_OWN):
                    named.setdefault(str(node.module), set()).update(a.name for a in node.names)
            elif not ast.unparse(node).startswith("__all__ ="):
                continue
            dropped |= set(_lines(node))
        bodies.append("\n".join(x for i, x in enumerate(lines, 1) if i not in dropped).strip())
    del named["__future__"]
    froms = [f"from {name} import {', '.join(sorted(named[name]))}" for name in sorted(named)]
    future = "from __future__ import annotations"
    return "\n".join(
        [docstring, "", future, "", *sorted(whole), *froms, "", "", "\n\n\n".join(bodies), ""]
    )


def _lines(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)

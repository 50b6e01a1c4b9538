"""Writes the notebooks beside this file from the texts in src/.

    python launch/colab/make.py            # writes them
    python launch/colab/make.py --check    # says which are not in step, with exit code 1

A text is Markdown; its ```python blocks become cells, and an ```install block the one cell that all
notebooks share, install.py. Notebooks hold no outputs: what they show is made when they run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
_BLOCK = re.compile(r"^```(python|install)\n(.*?)^```$\n?", re.S | re.M)
# Where Colab opens a notebook on something other than a CPU.
_RUNTIMES = {"03": {"accelerator": "TPU", "gpuType": "V5E1"}}


def cells(text: str, install: str) -> list[dict[str, Any]]:
    """Returns a text's cells.

    Args:
        text: Markdown with blocks of code.
        install: what stands for each install block.
    """
    made: list[dict[str, Any]] = []

    def add(kind: str, source: str) -> None:
        cell = {"cell_type": kind, "id": f"cell-{len(made):02}", "metadata": {}}
        cell["source"] = source.strip("\n").splitlines(keepends=True)
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        if cell["source"]:
            made.append(cell)

    end = 0
    for block in _BLOCK.finditer(text):
        add("markdown", text[end : block.start()])
        add("code", install if block[1] == "install" else block[2])
        end = block.end()
    add("markdown", text[end:])
    return made


def notebook(source: Path) -> str:
    """Returns the JSON text of the notebook that a file of src/ stands for."""
    install = (FOLDER / "install.py").read_text(encoding="utf-8")
    metadata: dict[str, Any] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "colab": {"provenance": [], "toc_visible": True},
    }
    runtime = _RUNTIMES.get(source.stem[:2], {})
    if runtime:
        metadata["accelerator"] = runtime["accelerator"]
        metadata["colab"]["gpuType"] = runtime["gpuType"]
    made = {
        "cells": cells(source.read_text(encoding="utf-8"), install),
        "metadata": metadata,
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args(argv).check
    stale = []
    for source in sorted((FOLDER / "src").glob("*.md")):
        path, text = FOLDER / f"{source.stem}.ipynb", notebook(source)
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.name)
        if not check:
            aside = FOLDER / f".{path.name}.new"
            aside.write_text(text, encoding="utf-8")
            os.replace(aside, path)
    print(("not in step: " if check else "wrote: ") + (", ".join(stale) or "nothing"))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())

"""`openseg models`: the weights that are known by name."""

from __future__ import annotations

import argparse
import itertools
import json
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from openseg_jax.weights.folder import CONFIG_FILE, WEIGHTS_FILE, read_json
from openseg_jax.weights.registry import KNOWN, MINIATURE, SAMS, cached_folder

DESCRIPTION = "List known weights: source, licence, what they saw in training, and what is here."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.description = DESCRIPTION
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def rows() -> list[dict[str, Any]]:
    """Lists the miniature and every known name, as plain dicts; "kind" is "clip" or "sam"."""
    out = []
    if (MINIATURE / WEIGHTS_FILE).is_file():
        about = read_json(MINIATURE / CONFIG_FILE)
        out.append(
            {
                **about["provenance"],
                "name": "miniature",
                "kind": "clip",
                "megabytes": round((MINIATURE / WEIGHTS_FILE).stat().st_size / 1e6, 1),
                "local": str(MINIATURE),
            }
        )
    for entry in (*KNOWN.values(), *SAMS.values()):
        folder = cached_folder(entry)
        out.append(
            {
                **entry.provenance(),
                "kind": "sam" if entry.name in SAMS else "clip",
                "megabytes": round(entry.parameters * 4),
                "local": None if folder is None else str(folder),
            }
        )
    return out


def run(args: argparse.Namespace) -> int:
    """Prints the table, or JSON."""
    listed = rows()
    if args.json:
        print(json.dumps(listed, indent=1))
        return 0
    console = Console()
    # Grouped by what the weights saw: one line of it for many names keeps the table short.
    for (saw, kind), group in itertools.groupby(listed, key=lambda row: (row["saw"], row["kind"])):
        title = f"saw: {saw}" if kind == "clip" else f"Segment Anything, for --sam; saw: {saw}"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("name", no_wrap=True, min_width=21)
        table.add_column("MB", justify="right", min_width=5)
        table.add_column("here", min_width=4)
        table.add_column("licence", no_wrap=True, min_width=10)
        table.add_column("source", overflow="fold")
        for row in group:
            here = "yes" if row["local"] else "no"
            source = row["source"].removeprefix("https://huggingface.co/")
            table.add_row(row["name"], f"{row['megabytes']:g}", here, row["licence"], source)
        console.print(table)
    console.print("MB as float32. Sources are repositories on huggingface.co. Use a name with")
    console.print("--model (Segment Anything with --sam); what is not here is downloaded on")
    console.print("first use.")
    return 0

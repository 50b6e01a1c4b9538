"""Prepare, verify and list data sets.

openseg data prepare NAME --root DIR turns the official archives or folders in DIR into what
evaluation reads. openseg data verify NAME --root DIR checks every file. openseg data list says what
there is, and with --root what lies in DIR.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from openseg_jax.cli.shared import output_console, progress_bar
from openseg_jax.errors import UserError, unknown_name

ACTIONS = ("prepare", "verify", "list")
_ROWS = 12
_PROBLEMS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `openseg data`."""
    parser.add_argument("action", metavar="prepare|verify|list", help="what to do")
    parser.add_argument("name", nargs="?", metavar="NAME", help="data set; see openseg data list")
    parser.add_argument("--root", metavar="DIR", help="folder with archives or folders of data")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes (as many as there are cores)"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="prepare: the first N pictures, for a first try"
    )
    parser.add_argument("--again", action="store_true", help="prepare: although it is there")
    parser.add_argument("--quick", action="store_true", help="verify: do not decode the pictures")
    parser.add_argument("--json", action="store_true", help="verify, list: print JSON")


def run(args: argparse.Namespace) -> int:
    """Runs `openseg data`."""
    if args.action not in ACTIONS:
        unknown_name(args.action, ACTIONS, "openseg data")
    if args.action == "list":
        return _list(args)
    if not args.name:
        raise UserError(
            f"NAME: which data set? openseg data {args.action} NAME --root DIR; openseg data list "
            "lists them"
        )
    if not args.root:
        raise UserError(
            f"--root: which folder? openseg data {args.action} {args.name} --root DIR; the "
            "archives or folders of the data set lie there"
        )
    return _prepare(args) if args.action == "prepare" else _verify(args)


def _prepare(args: argparse.Namespace) -> int:
    from openseg_jax.data.prepare.run import prepare

    with _bar() as tell:
        done = prepare(
            args.name, args.root, workers=args.workers, limit=args.limit, again=args.again,
            tell=tell,
        )  # fmt: skip
    if done.was_there:
        print(
            f"{done.folder}: {done.count} items, prepared before; openseg data verify {args.name} "
            f"--root {args.root} checks them, --again prepares them again"
        )
        return 0
    resumed = done.count + done.skipped - done.made
    extra = (f", {resumed} by a run before" if resumed else "") + (
        f", {done.skipped} without labels left out" if done.skipped else ""
    )
    print(f"{done.folder}: {done.count} items in {done.seconds:.1f} s{extra}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from openseg_jax.data.prepare import verify

    with _bar() as tell:
        report = verify.verify(
            args.name, args.root, workers=args.workers, quick=args.quick, tell=tell
        )
    if args.json:
        print(verify.to_json(report))
    else:
        _print_report(report)
    if not report.problems:
        return 0
    more = f" (and {len(report.problems) - 1} more)" if len(report.problems) > 1 else ""
    raise UserError(report.problems[0] + more)


def _print_report(report: Any) -> None:
    published = " or ".join(map(str, report.published))
    print(
        f"{report.name} ({report.layout}): {report.count} items"
        + (f", published: {published}" if published else "")
    )
    if report.classes:
        _print_histogram(report)
    for note in report.notes:
        print(f"note: {note}")
    for problem in report.problems[:_PROBLEMS]:
        print(f"wrong: {problem}")
    if len(report.problems) > _PROBLEMS:
        print(f"wrong: … and {len(report.problems) - _PROBLEMS} more")
    if not report.problems:
        print("all files are as they should be")


def _print_histogram(report: Any) -> None:
    total = max(int(report.pixels.sum()) + report.not_labelled, 1)
    table = Table()
    for name, side in (("class", "left"), ("pixels", "right"), ("share", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    table.add_column("pictures", justify="right")
    order = (-report.pixels).argsort(kind="stable")
    for index in order[:_ROWS]:
        pixels = int(report.pixels[index])
        table.add_row(
            escape(report.classes[index][:40]), str(pixels), f"{100 * pixels / total:.2f} %",
            str(int(report.pictures[index])),
        )  # fmt: skip
    if len(order) > _ROWS:
        table.add_row(f"… {len(order) - _ROWS} more; --json prints all", "", "", "")
    table.add_section()
    share = f"{100 * report.not_labelled / total:.2f} %"
    table.add_row("not labelled", str(report.not_labelled), share, "")
    output_console().print(table)


def _list(args: argparse.Namespace) -> int:
    from openseg_jax.data.prepare.base import RECIPES, recipe
    from openseg_jax.data.prepare.status import status

    if args.name and args.name not in RECIPES:
        unknown_name(args.name, RECIPES, "data set")
    if args.root and not Path(args.root).is_dir():
        raise UserError(f"{args.root}: no such folder; correct --root")
    rows = []
    for name in [args.name] if args.name else RECIPES:
        facts = recipe(name)
        rows.append(
            {
                "name": name, "title": facts.title, "items": list(facts.counts),
                "classes": len(facts.classes), "licence": facts.licence, "get": facts.get,
                "state": status(name, Path(args.root)) if args.root else "",
            }
        )  # fmt: skip
    if args.json:
        json.dump(rows, sys.stdout, ensure_ascii=False, indent=1)
        print()
        return 0
    for row in rows:
        items = " or ".join(map(str, row["items"]))
        print(f"{row['name']:<12} {row['title']}" + (f", {items} pictures" if items else ""))
        if row["state"]:
            print(f"             {row['state']}")
        else:
            print(f"             needs {row['get']}")
            print(f"             licence: {row['licence']}")
    return 0


@contextmanager
def _bar() -> Iterator[Any]:
    with progress_bar() as bar:
        task = bar.add_task("starting", total=1.0)

        def tell(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)

        yield tell

"""What several verbs share: labels and backgrounds as flags, the console, and the bar."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from openseg_jax.inputs import labels

__all__ = ["add_label_arguments", "background_of", "labels_of", "output_console", "progress_bar"]


def add_label_arguments(group: Any, *, background: str) -> None:
    """Declares --labels, --labels-file and --background; the last one's help is `background`."""
    group.add_argument(
        "-l", "--labels", metavar="LIST", help='e.g. "zebra, grass"; "person,people" in quotes'
    )
    group.add_argument("--labels-file", metavar="FILE", help="one label a line")
    group.add_argument("--background", default="default", metavar="LIST", help=background)


def labels_of(args: argparse.Namespace) -> list[str]:
    """Returns the labels of --labels and --labels-file, in order, duplicates included."""
    names = labels.parse_labels(args.labels) if args.labels is not None else []
    if args.labels_file:
        names += labels.read_labels(args.labels_file)
    return names


def background_of(args: argparse.Namespace) -> list[str] | None:
    """Returns the texts of --background: None for "default", [] for "none"."""
    word = args.background.strip().lower()
    if word == "default":
        return None
    return [] if word in ("none", "") else labels.parse_labels(args.background)


def output_console() -> Console:
    """Makes the console that tables are printed on; in files and pipes lines stay whole."""
    return Console(soft_wrap=not sys.stdout.isatty())


def progress_bar() -> Progress:
    """Makes the bar on stderr that long runs show; silent where that is no terminal."""
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
        TimeElapsedColumn(), console=Console(stderr=True), transient=True,
        disable=not sys.stderr.isatty(),
    )  # fmt: skip

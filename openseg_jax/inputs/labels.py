"""Labels as people write them: a comma-separated line or a file with one label a line."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from openseg_jax.errors import UserError


def parse_labels(text: str) -> list[str]:
    r"""Splits a comma-separated line into labels.

    A label that contains a comma itself (a name with synonyms) is written in double quotes or
    with backslashes: `"person,people", grass` and `person\,people, grass` are the same two.

    Args:
        text: the line. Line breaks separate labels too.
    Returns:
        labels in order; blank ones are left out.
    Raises:
        UserError: on a quote that is never closed.
    """
    labels = []
    for line in text.splitlines():
        if line.count('"') % 2:
            raise UserError(f'labels: a double quote is never closed in {line[:60]!r}; add a "')
        reader = csv.reader([line], skipinitialspace=True, escapechar="\\", doublequote=False)
        labels += [name for cell in next(reader, []) if (name := _tidy(cell))]
    return labels


def read_labels(path: str | os.PathLike[str]) -> list[str]:
    """Reads a file with one label a line.

    Commas belong to the label. Lines that start with "#" and blank lines are left out; of lines
    with tabs ("12<TAB>zebra", as in our vocabularies) the last column counts.

    Args:
        path: UTF-8 text file.
    Returns:
        labels in order.
    Raises:
        UserError: when the file cannot be read or is no text.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a UTF-8 text file; save the labels as UTF-8") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot read the labels ({reason}); check the path") from error
    rows = (line.split("\t")[-1] for line in lines if not line.lstrip().startswith("#"))
    return [name for row in rows if (name := _tidy(row))]


def merge_duplicates(labels: Iterable[str]) -> tuple[list[str], list[str]]:
    """Merges labels that are equal but for case and blanks; the first spelling stays.

    Args:
        labels: as given.
    Returns:
        distinct labels in order; the spellings that were merged away.
    Raises:
        UserError: when no label is left, or what came is one string instead of a list.
    """
    if isinstance(labels, str):
        raise UserError('labels: expected a list, got one string; write ["zebra", "grass"]')
    seen: dict[str, str] = {}
    merged = []
    for label in labels:
        name = _tidy(str(label))
        if not name:
            continue
        if name.casefold() in seen:
            merged.append(name)
        seen.setdefault(name.casefold(), name)
    if not seen:
        raise UserError(
            'labels: expected at least one label, got none; try --labels "zebra, grass"'
        )
    return list(seen.values()), merged


def without(names: Sequence[str], labels: Iterable[str]) -> list[str]:
    """Leaves out of `names` what is also a label, ignoring case."""
    taken = {label.casefold() for label in labels}
    return [name for name in names if name.casefold() not in taken]


def _tidy(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # bytes of another encoding, as a terminal hands them on
        raise UserError(
            f"labels: {text[:40]!r} holds what is no character; write it in UTF-8"
        ) from error
    # Control characters would break tables and one-line messages.
    return re.sub(r"[\s\x00-\x1f\x7f]+", " ", text).strip()

"""Words, lines and files of bash scripts; every value goes through `shlex`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

WIDTH = 100


def words(*argv: str) -> str:
    """Returns a command on one line, quoted so that bash reads exactly `argv`."""
    return shlex.join(argv)


def command(*argv: str, indent: str = "") -> str:
    """Returns a command, folded after its subcommands where it is long: one option a line."""
    line = indent + shlex.join(argv)
    if len(line) <= WIDTH:
        return line
    head: list[str] = []
    while argv and not argv[0].startswith("-"):
        head, argv = [*head, argv[0]], argv[1:]
    lines = [indent + shlex.join(head), *(f"{indent}  {shlex.quote(word)}" for word in argv)]
    return " \\\n".join(lines)


def remark(text: str) -> str:
    """Returns a comment."""
    return "".join(f"# {line}\n" for line in text.splitlines()).rstrip("\n")


def say(text: str) -> str:
    """Returns a command that prints one line."""
    return words("echo", text)


def indented(text: str, by: int) -> str:
    """Returns commands moved to the right; none of them may hold a text of several lines."""
    return "\n".join(f"{' ' * by}{line}" for line in text.splitlines())


def here(path: str, text: str) -> str:
    """Returns a command that writes a file, its text taken as it stands.

    Args:
        path: bash words, already quoted, so that it may hold variables.
        text: ends in a newline.
    """
    mark = "END_OF_FILE"
    while mark in text.splitlines():
        mark += "_"
    return f"cat > {path} <<'{mark}'\n{text}{mark}"


def script(*parts: str, purpose: str = "") -> str:
    """Returns a whole script out of its parts, an empty line between them."""
    head = "#!/usr/bin/env bash\n" + (remark(purpose) + "\n" if purpose else "")
    return head + "set -euo pipefail\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def flags(pairs: Sequence[tuple[str, str | None]]) -> list[str]:
    """Returns `--key=value` words, leaving out those without a value."""
    return [f"{key}={value}" for key, value in pairs if value]

"""Finds the fenced blocks of the pages, and takes shell blocks apart into commands."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Every page that has commands; `launch/colab/README.md` where it is there.
PAGES = sorted(
    path
    for pattern in ("README.md", "docs/**/*.md", "launch/README.md", "launch/colab/README.md")
    for path in ROOT.glob(pattern)
)
# What a fence may be called. "text" is what a program prints, or a folder's contents.
LANGUAGES = ("bash", "python", "text", "json", "yaml")

_FENCE = re.compile(r"^([ \t]*)```([^\n`]*)\n(.*?)^\1```[ \t]*$", re.MULTILINE | re.DOTALL)
_NOTE = re.compile(r"<!--\s*parsed only:\s*([^>]*?)\s*-->\s*\Z")
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_ASSIGNMENT = re.compile(r"[A-Z_][A-Z0-9_]*=")
_PUNCTUATION = ";&|()<>"


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: where it stands, relative to the repository.
        line: of its fence, from 1.
        language: as written after the fence.
        text: what is in it.
        reason: of `<!-- parsed only: ... -->` right above it; "" where it is run.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclasses.dataclass(frozen=True)
class Command:
    """One simple command: its words, the variables before it, and what stands behind it."""

    words: tuple[str, ...]
    variables: tuple[str, ...] = ()
    end: str = "\n"


def blocks_of(text: str, page: str) -> list[Block]:
    """Returns all fenced blocks of a page, in order."""
    found = []
    for match in _FENCE.finditer(text):
        note = _NOTE.search(text[: match.start()])
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, match[2].strip(), match[3], note[1].strip() if note else ""))
    return found


def all_blocks(*languages: str) -> list[Block]:
    """Returns the blocks of every page, of some languages or of all."""
    found = []
    for path in PAGES:
        page = path.relative_to(ROOT).as_posix()
        found += blocks_of(path.read_text(encoding="utf-8"), page)
    return [block for block in found if not languages or block.language in languages]


def spans_of(text: str) -> list[str]:
    """Returns the commands that stand in a page's running text, `openseg ...` and the like."""
    outside = _FENCE.sub("", text)
    return [
        span
        for span in _SPAN.findall(outside)
        if re.match(r"(openseg [a-z]|python -m |pip install |pytest )", span)
        and not re.search(r"…|\.\.\.$|\bVERB\b", span)
    ]


def commands_of(text: str) -> list[Command]:
    """Takes a shell text apart: comments go, lines that end in a backslash are joined.

    Raises:
        ValueError: for a quotation that does not end.
    """
    found: list[Command] = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=_PUNCTUATION)
        lexer.whitespace_split = True
        lexer.commenters = "#"
        words: list[str] = []
        for word in [*lexer, "\n"]:
            if word == "\n" or set(word) <= set(";&|"):
                found += _command(words, word)
                words = []
            else:
                words.append(word)
    return found


def _command(words: list[str], end: str) -> list[Command]:
    if words and words[0] == "$":
        words = words[1:]
    count = 0
    while count < len(words) and _ASSIGNMENT.match(words[count]):
        count += 1
    if count == len(words):
        return []
    return [Command(tuple(words[count:]), tuple(words[:count]), end)]

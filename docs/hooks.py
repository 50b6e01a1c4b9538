"""What MkDocs does not do itself: pages from elsewhere in the repository, and formulas.

Every page is written for two readers: somebody who opens the file in the repository, and somebody
on the site. Links are therefore relative to the file, and are turned here into those of the site.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files

log = get_plugin_logger("pages")

ROOT = Path(__file__).parents[1]
# File in the repository -> page of the site. What is not there yet is left out.
ELSEWHERE = {
    "README.md": "index.md",
    "launch/README.md": "launch/README.md",
    "launch/plans.md": "launch/plans.md",
    "launch/colab/README.md": "launch/colab/README.md",
}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_FENCE = re.compile(r"^([ \t]*)(```|~~~).*?^\1\2[ \t]*$", re.MULTILINE | re.DOTALL)
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.DOTALL)


def on_files(files: Files, *, config: Any) -> Files:
    """Adds the pages that lie outside `docs`."""
    for source, page in ELSEWHERE.items():
        path = ROOT / source
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Turns links between files of the repository into links of the site."""
    here = page.file.src_uri
    source = next((s for s, p in ELSEWHERE.items() if p == here), f"docs/{here}")

    def site(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        path, mark, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return match[0]
        inside = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        wanted = ELSEWHERE.get(inside) or inside.removeprefix("docs/")
        if inside in ELSEWHERE or inside.startswith("docs/"):
            if inside in ELSEWHERE and not (ROOT / inside).is_file():
                return match[0]  # MkDocs names the dead link
            back = posixpath.relpath(wanted, posixpath.dirname(here) or ".")
            return f"{picture}[{text}]({back}{mark}{anchor})"
        if not (ROOT / inside).exists():
            log.warning("%s: link to %r, which is not in the repository", source, target)
        # Code is not part of the site: what is said about it stays, the link goes.
        return text

    kept: list[str] = []
    for part in _outside_fences(markdown):
        kept.append(part if part.lstrip().startswith(("```", "~~~")) else _LINK.sub(site, part))
    return "".join(kept)


def on_page_content(content: str, *, page: Any, config: Any, files: Files) -> str:
    """Turns formulas into MathML, which browsers draw without a script."""

    def formula(match: re.Match[str]) -> str:
        display = "block" if match[1] == "div" else "inline"
        drawn = convert(html.unescape(match[2]).strip(), display=display)
        if "\\" in drawn:
            log.warning("%s: a formula has a command that is not known: %s", page, match[2].strip())
        return drawn

    return _FORMULA.sub(formula, content)


def _outside_fences(markdown: str) -> list[str]:
    """Splits a page into text and fenced blocks, in order."""
    parts, end = [], 0
    for match in _FENCE.finditer(markdown):
        parts += [markdown[end : match.start()], match[0]]
        end = match.end()
    return [*parts, markdown[end:]]

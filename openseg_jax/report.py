"""A self-contained HTML page: text, tables and pictures in one file, readable in the dark too.

A page is a list of parts; each function here returns one part, already escaped.
"""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from openseg_jax.files import atomic_write
from openseg_jax.types import UInt8

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --paper: #ffffff; --faint: #6b6b70;
  --line: #e2e2e6; --card: #f6f6f8; --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf0; --paper: #17171a; --faint: #9a9aa2;
  --line: #34343a; --card: #212126; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem; color: var(--ink);
  background: var(--paper); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { max-width: 46rem; margin: .5rem 0; } .faint { color: var(--faint); font-size: .9rem; }
code { font: .88em ui-monospace, monospace; background: var(--card); padding: .1em .3em;
  border-radius: 4px; }
.gallery { display: flex; flex-wrap: wrap; gap: .75rem; margin: .75rem 0; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .5rem; max-width: 100%; }
figure img { display: block; max-width: 100%; height: auto; border-radius: 4px; }
figcaption { margin-top: .4rem; font-size: .85rem; color: var(--faint); max-width: 24rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .75rem 0; font-size: .93rem; }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
th { color: var(--faint); font-weight: 600; }
s { color: var(--faint); } b.kept { color: var(--accent); }
ol { margin: .4rem 0; padding-left: 1.4rem; max-width: 60rem; font-size: .93rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .75rem; }
"""


def heading(text: str, level: int = 2) -> str:
    """Makes a heading of level 2 or 3."""
    return f"<h{level}>{html.escape(text)}</h{level}>"


def paragraph(text: str, *, faint: bool = False) -> str:
    """Makes a paragraph."""
    mark = ' class="faint"' if faint else ""
    return f"<p{mark}>{html.escape(text)}</p>"


def figure(image: UInt8[np.ndarray, "H W 3"], caption: str, *, width: int | None = None) -> str:
    """Makes a picture with a caption.

    Args:
        image: RGB; embedded as PNG.
        caption: also the text for those who cannot see the picture.
        width: shown so wide, CSS pixels; None takes the picture's own.
    Returns:
        HTML.
    """
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    code = base64.b64encode(data.getvalue()).decode("ascii")
    words = html.escape(caption)
    # Small pictures are enlarged by the browser; their pixels should stay visible.
    style = "" if width is None else f' style="width:{width}px;image-rendering:pixelated"'
    return (
        f'<figure><img src="data:image/png;base64,{code}" alt="{words}"{style}>'
        f"<figcaption>{words}</figcaption></figure>"
    )


def gallery(figures: Iterable[str]) -> str:
    """Puts figures next to each other; they wrap on narrow screens."""
    return f'<div class="gallery">{"".join(figures)}</div>'


def table(header: Sequence[str], rows: Iterable[Sequence[str | float]]) -> str:
    """Makes a table; floats are numbers with two decimals, aligned right.

    Args:
        header: one text a column.
        rows: one cell a column.
    Returns:
        HTML.
    """
    rows = [list(row) for row in rows]
    numeric = [any(isinstance(row[i], float) for row in rows) for i in range(len(header))]
    marks = [' class="number"' if number else "" for number in numeric]

    def line(tag: str, cells: Sequence[str | float]) -> str:
        texts = [f"{c:.2f}" if isinstance(c, float) else html.escape(str(c)) for c in cells]
        pairs = zip(marks, texts, strict=True)
        return "<tr>" + "".join(f"<{tag}{mark}>{text}</{tag}>" for mark, text in pairs) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table>{line("th", header)}{body}</table></div>'


def steps(history: Sequence[tuple[Sequence[str], Sequence[str]]]) -> str:
    """Lists the steps of a recurrence: which texts stayed and which were dropped.

    Args:
        history: (kept, dropped) names of each step.
    Returns:
        HTML.
    """
    items = []
    for kept, dropped in history:
        stays = ", ".join(f'<b class="kept">{html.escape(name)}</b>' for name in kept)
        gone = ", ".join(f"<s>{html.escape(name)}</s>" for name in dropped)
        items.append(f"<li>kept {stays}{'; dropped ' + gone if gone else '; nothing dropped'}</li>")
    return f"<ol>{''.join(items)}</ol>"


def write_page(
    path: str | os.PathLike[str],
    title: str,
    parts: Iterable[str],
    *,
    footer: str = "",
    head: str = "",
) -> Path:
    """Writes the page.

    Args:
        path: the HTML file, written as a whole or not at all.
        title: of the page.
        parts: from the functions above, in order.
        footer: plain text at the end, e.g. where the numbers come from.
        head: HTML for the head, e.g. a style of the page's own.
    Returns:
        the path.
    Raises:
        UserError: when the file cannot be written.
    """
    name = html.escape(title)
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}</title><style>{_STYLE}</style>{head}</head><body><h1>{name}</h1>"
        f"{''.join(parts)}"
        f'<footer><p class="faint">{html.escape(footer)}</p></footer></body></html>\n'
    )
    with atomic_write(path) as aside:
        aside.write_text(text, encoding="utf-8")
    return Path(path)

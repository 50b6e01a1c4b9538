"""An evaluation as one HTML file: tables that sort by a click, and the worst and best pictures.

Nothing is loaded from elsewhere, so the file can be mailed, archived and opened without a network.
Whatever comes from users (class names, file names, expressions, models) is escaped.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from openseg_jax import report as page
from openseg_jax import viz
from openseg_jax.errors import expected
from openseg_jax.eval import measures, report_tables
from openseg_jax.eval.measures import AnyResult
from openseg_jax.eval.report_tables import Cell, Table
from openseg_jax.eval.result import ReferringResult, Result
from openseg_jax.inputs.augment import IGNORE
from openseg_jax.types import Int, UInt8

__all__ = ["Picture", "Pictures", "write_html"]

SIDE = 320  # pixels of a thumbnail's long side
_CHIPS = 14  # classes that a legend names
_SHORT, _LONG = 16, 44  # characters of a cell that is never wrapped, or gets a wide column
_PIXELATED = 160  # a smaller long side is enlarged with its pixels visible
_IGNORED = (150, 150, 155)


@dataclasses.dataclass(frozen=True)
class Picture:
    """What the report shows of one picture.

    Attributes:
        image: the input.
        truth, predicted: 0 background or no class, i + 1 class i (background not counted); the
            truth also has `IGNORE`. Of referred objects: 1 inside.
    """

    image: UInt8[np.ndarray, "H W 3"]
    truth: Int[np.ndarray, "H W"]
    predicted: Int[np.ndarray, "H W"]


# From names of pictures (or of referred objects) to what is shown of them.
Pictures = Callable[[Sequence[str]], Mapping[str, Picture]]


def write_html(
    path: str | os.PathLike[str],
    results: Sequence[AnyResult],
    *,
    pictures: Sequence[Pictures | None] = (),
    most: int = 8,
) -> Path:
    """Writes the page.

    Args:
        path: the HTML file, written as a whole or not at all.
        results: one a method; those of one benchmark become one comparison.
        pictures: where the pictures of each result come from; None, or () for all, shows none.
        most: pictures of each kind.
    Returns:
        the path.
    Raises:
        UserError: when there is no result, the file cannot be written, or `pictures` has another
            length.
    """
    groups = measures.groups(results)
    looks = list(pictures) or [None] * len(results)
    if len(looks) != len(results):
        want = f"{len(results)}, one for each result"
        raise expected("pictures", want, str(len(looks)), "give None for none")
    parts: list[str] = []
    for group in groups:
        if len(groups) > 1:
            parts.append(page.heading(results[group[0]].benchmark))
        parts += _group([results[i] for i in group], [looks[i] for i in group], most)
    names = list(dict.fromkeys(result.benchmark for result in results))
    methods = list(dict.fromkeys(result.method for result in results))
    title = f"{', '.join(names)}: {', '.join(methods)}"
    return page.write_page(
        path, title, [*parts, f"<script>{_SCRIPT}</script>"], head=f"<style>{_STYLE}</style>",
        footer="Counts are exact; every number can be made again from the JSON beside this file.",
    )  # fmt: skip


def _group(group: Sequence[AnyResult], looks: Sequence[Pictures | None], most: int) -> list[str]:
    parts = [_section(report_tables.summary(group))]
    for table in report_tables.beside_published(group):
        parts.append(_section(table) if "ours (model)" in table.header else _folded(table))
    for result, look in zip(group, looks, strict=True):
        if look is not None:
            parts += _extremes(result, look, most, group)
    semantic = [result for result in group if isinstance(result, Result)]
    if semantic:
        parts.append(_section(report_tables.per_class(semantic), bars="IoU", search=True))
        parts += [_section(report_tables.mixed_up(one, among=semantic)) for one in semantic]
    parts += [
        _section(report_tables.extremes(one, among=group))
        for one in group
        if isinstance(one, ReferringResult)
    ]
    parts.append(_section(report_tables.timings(group)))
    parts.append(page.heading("Provenance"))
    parts += [_provenance(result) for result in group]
    return parts


def _provenance(result: AnyResult) -> str:
    facts = report_tables.provenance(result)
    rows = "".join(
        f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in facts.items()
    )
    return f"<dl>{rows}</dl>"


def _section(table: Table, *, bars: str = "", search: bool = False) -> str:
    """Makes a table that sorts by a click on its header.

    Args:
        table: its content.
        bars: columns whose header begins so get a bar behind the number.
        search: puts a box above long tables that hides rows without the text typed.
    """
    numeric = report_tables.numeric_columns(table)
    drawn = [bool(bars) and name.startswith(bars) for name in table.header]
    head = "".join(
        f"<th{' class=number' if number else ''} scope=col>"
        f"<button type=button>{html.escape(name)}</button></th>"
        for name, number in zip(table.header, numeric, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(map(_cell, row, numeric, drawn)) + "</tr>" for row in table.rows
    )
    box = ""
    if search and len(table.rows) > 12:
        box = '<input type=search placeholder="find a class" aria-label="find a class">'
    notes = "".join(page.paragraph(note, faint=True) for note in table.notes)
    title = page.heading(table.title) if table.title else ""
    return (
        f"<section>{title}{box}<div class=scroll><table class=sorts><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>{notes}</section>"
    )


def _folded(table: Table) -> str:
    """Makes a table that opens by a click on its title."""
    plain = _section(dataclasses.replace(table, title=""))
    return f"<details><summary>{html.escape(table.title)}</summary>{plain}</details>"


def _cell(cell: Cell, number: bool, bar: bool) -> str:
    text = html.escape(report_tables.shown(cell))
    if not number:
        kind = "short" if len(text) <= _SHORT else "long" if len(text) > _LONG else ""
        return f'<td class="{kind}">{text}</td>' if kind else f"<td>{text}</td>"
    # What is undefined sorts below everything.
    value = cell if isinstance(cell, int | float) and cell == cell else -1
    style = f' style="--share:{max(float(value), 0):.4g}%"' if bar else ""
    kind = "number bar" if bar else "number"
    return f'<td class="{kind}" data-value="{value!r}"{style}>{text}</td>'


def _extremes(
    result: AnyResult, look: Pictures, most: int, among: Sequence[AnyResult]
) -> list[str]:
    worst, best = measures.ranked(result, most)
    seen = look([name for name, _ in (*worst, *best)])
    name = f": {report_tables.title_of(result, among)}" if len(among) > 1 else ""
    things = "objects" if isinstance(result, ReferringResult) else "pictures"
    parts = []
    for title, side in (("Worst", worst), ("Best", best)):
        if side:
            cards = "".join(_card(result, key, iou, seen[key]) for key, iou in side)
            parts += [page.heading(f"{title} {things}{name}"), f"<div class=cards>{cards}</div>"]
    return parts


def _card(result: AnyResult, name: str, iou: float, one: Picture) -> str:
    kind = "IoU" if isinstance(result, ReferringResult) else "mIoU"
    height, width = one.image.shape[:2]
    small = max(height, width) < _PIXELATED
    views = (
        ("input", _photo(one.image)),
        ("truth", _map(one.truth)),
        ("prediction", _map(one.predicted)),
    )
    shown = "".join(
        f"<figure><img src='{uri}' alt='{html.escape(f'{name}: {what}')}' loading=lazy"
        f"{' class=small' if small else ''}><figcaption>{what}</figcaption></figure>"
        for what, uri in views
    )
    said = ""
    if isinstance(result, ReferringResult):
        row = next(row for row in result.rows if row.name == name)
        said = "".join(f"<li>“{html.escape(text)}”</li>" for text in row.texts)
        said = f"<ul class=said>{said}</ul>"
    return (
        f"<article class=card><header><b>{html.escape(name)}</b> <span>{kind} {100 * iou:.1f} %"
        f"</span></header><div class=views>{shown}</div>{said}{_legend(result, one)}</article>"
    )


def _legend(result: AnyResult, one: Picture) -> str:
    """Names the classes of a picture, the largest of the truth first, with their IoU in it."""
    if isinstance(result, ReferringResult):
        return ""
    counted = one.truth != IGNORE
    true, taken = one.truth[counted], one.predicted[counted]
    size = max(int(true.max(initial=0)), int(one.predicted.max(initial=0))) + 1
    truth, predicted = np.bincount(true, minlength=size), np.bincount(taken, minlength=size)
    hit = np.bincount(true[true == taken], minlength=size)
    present = [i for i in range(size) if truth[i] or predicted[i]]
    present.sort(key=lambda i: (-int(truth[i]), -int(predicted[i])))
    chips = []
    for label in present[:_CHIPS]:
        union = int(truth[label] + predicted[label] - hit[label])
        number = f"{100 * int(hit[label]) / union:.0f} %" if truth[label] else "not there"
        if label == 0 and not result.background:
            number = "missed"
        chips.append(_chip(_class_name(result, label), viz.palette(label)[label], number))
    if len(present) > _CHIPS:
        chips.append(f"<span class=chip>and {len(present) - _CHIPS} more</span>")
    if not counted.all():
        chips.append(_chip("ignored", _IGNORED, ""))
    return f"<div class=chips>{''.join(chips)}</div>"


def _class_name(result: Result, label: int) -> str:
    if result.background:
        return result.classes[label]
    return result.classes[label - 1] if label else report_tables.NO_CLASS


def _chip(name: str, colour: Iterable[int], number: str) -> str:
    red, green, blue = map(int, colour)
    return (
        f"<span class=chip><i style='background:rgb({red},{green},{blue})'></i>"
        f"{html.escape(name)} <small>{number}</small></span>"
    )


def _size(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, SIDE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _photo(image: UInt8[np.ndarray, "H W 3"]) -> str:
    photo = Image.fromarray(np.ascontiguousarray(image))
    if max(photo.size) > SIDE:
        photo = photo.resize(_size(*image.shape[:2]), Image.Resampling.BOX)
    # JPEG smears the pixels of tiny pictures, which are what there is to see in them.
    return _uri(photo, "PNG") if max(photo.size) < _PIXELATED else _uri(photo, "JPEG")


def _map(labels: Int[np.ndarray, "H W"]) -> str:
    """Colours labels as a palette PNG."""
    found, index = np.unique(labels, return_inverse=True)
    index = index.reshape(labels.shape)
    colours = np.array(
        [_IGNORED if label == IGNORE else viz.palette(int(label))[int(label)] for label in found],
        np.uint8,
    )
    if len(found) > 256:
        shown = Image.fromarray(colours[index])
    else:
        shown = Image.fromarray(index.astype(np.uint8), "P")
        shown.putpalette(colours.tobytes())
    return _uri(shown.resize(_size(*labels.shape), Image.Resampling.NEAREST), "PNG")


def _uri(picture: Image.Image, kind: str) -> str:
    data = io.BytesIO()
    picture.save(data, kind, **({"quality": 88} if kind == "JPEG" else {"optimize": True}))
    code = base64.b64encode(data.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{code}"


_STYLE = """
:root { --bar: #cfe6f5; } @media (prefers-color-scheme: dark) { :root { --bar: #17405a; } }
table.sorts { margin-right: 1rem; }
table.sorts th button { all: unset; cursor: pointer; color: inherit; font: inherit; }
table.sorts th button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table.sorts th[aria-sort=ascending] button::after { content: " ▲"; font-size: .7em; }
table.sorts th[aria-sort=descending] button::after { content: " ▼"; font-size: .7em; }
table.sorts th, table.sorts td { padding: .35rem .6rem; vertical-align: top; }
table.sorts td:first-child, table.sorts th:first-child { position: sticky; left: 0;
  background: var(--paper); padding-left: 0; }
table.sorts td { max-width: 22rem; overflow-wrap: break-word; }
table.sorts td.short { white-space: nowrap; } table.sorts td.long { min-width: 16rem; }
summary { cursor: pointer; margin: 1.5rem 0 .5rem; color: var(--accent); }
table.sorts tbody tr:hover td { background-color: var(--card); }
td.bar { min-width: 7rem;
  background-image: linear-gradient(90deg, var(--bar) var(--share), transparent 0);
  background-size: calc(100% - .4rem) 78%; background-repeat: no-repeat;
  background-position: .2rem center; }
input[type=search] { font: inherit; color: inherit; background: var(--card); padding: .3rem .6rem;
  border: 1px solid var(--line); border-radius: 6px; width: min(20rem, 100%); }
.cards { display: grid; gap: .9rem; margin: .75rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(33rem, 100%), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: .7rem; min-width: 0; }
.card header { display: flex; justify-content: space-between; gap: .75rem; margin-bottom: .5rem;
  overflow-wrap: anywhere; } .card header span { color: var(--faint); white-space: nowrap; }
.views { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .4rem; }
.card figure { padding: 0; border: 0; background: none; }
.card img { width: 100%; } .card img.small { image-rendering: pixelated; }
.card figcaption { margin-top: .15rem; }
.chips { display: flex; flex-wrap: wrap; gap: .3rem .8rem; margin-top: .5rem; font-size: .85rem; }
.chip i { display: inline-block; width: .8em; height: .8em; border-radius: 3px; margin-right: .3em;
  border: 1px solid var(--faint); vertical-align: -.05em; }
.chip small { color: var(--faint); } .chip { overflow-wrap: anywhere; }
.said { margin: .4rem 0 0; padding-left: 1.1rem; font-size: .9rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .9rem; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 34rem) { body { padding: 1rem .8rem 3rem; }
  .views { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .views figure:first-child { grid-column: 1 / -1; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
"""

_SCRIPT = """
for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
    const number = head.classList.contains("number");
    const first = number ? "descending" : "ascending";
    const second = number ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? second : first;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const key = (row) => number ? +row.cells[column].dataset.value : row.cells[column].textContent;
    const compare = (a, b) => number ? key(a) - key(b) : key(a).localeCompare(key(b));
    const sign = order === "ascending" ? 1 : -1;
    body.append(...[...body.rows].sort((a, b) => sign * compare(a, b)));
  }));
}
for (const box of document.querySelectorAll("input[type=search]")) {
  box.addEventListener("input", () => {
    const text = box.value.toLowerCase();
    for (const row of box.nextElementSibling.querySelectorAll("tbody tr"))
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(text);
  });
}
"""

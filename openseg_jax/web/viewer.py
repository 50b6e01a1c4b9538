"""The result on the page: picture, masks that tell their names, table, downloads."""

from __future__ import annotations

import numpy as np

from openseg_jax import viz
from openseg_jax.api import Segmentation
from openseg_jax.inputs.images import fit_long_side
from openseg_jax.types import Int, UInt8
from openseg_jax.web.downloads import downloads
from openseg_jax.web.html import bar, data_uri, join, number, picture_uri, sampled, text

__all__ = ["EMPTY", "SHOWN_SIDE", "index_picture", "view"]

SHOWN_SIDE = 1024
"""The page shows at most this long side, pixels; downloads have the picture's own size."""

_MOST_ABSENT = 40

EMPTY = (
    '<div class="os-empty"><p>Choose a picture and say what to look for.</p>'
    "<p>The masks appear here: point at one to see its name.</p></div>"
)
"""What stands there before the first result."""


def index_picture(labels: Int[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Writes label ids as colours that the page's script reads back: red + 256 · green."""
    low, high = labels & 255, labels >> 8
    return np.stack([low, high, np.zeros_like(low)], axis=-1).astype(np.uint8)


def view(result: Segmentation) -> str:
    """Writes the whole result as HTML; the script `viewer.js` paints it and listens."""
    image = fit_long_side(result.image, SHOWN_SIDE)
    height, width = image.shape[:2]
    shown = sampled(result.label_map, (height, width))
    crisp = " os-crisp" if max(height, width) <= 256 else ""
    return join(
        [
            f'<div class="os-view{crisp}" data-width="{width}" data-height="{height}">',
            f'<div class="os-stage" style="--ratio:{width / height:.6f}">',
            f'<img class="os-picture" alt="the picture" src="{picture_uri(image)}">',
            '<img class="os-index" alt="" hidden '
            f'src="{picture_uri(index_picture(shown), lossless=True)}">',
            '<canvas class="os-paint" aria-hidden="true"></canvas>',
            '<div class="os-tip" hidden></div></div>',
            _tools(result),
            _table(result),
            "</div>",
        ]
    )


def _tools(result: Segmentation) -> str:
    links = join(
        f'<a class="os-download" download="{text(file.name)}" '
        f'href="{data_uri(file.data, file.kind)}">{text(file.title)}</a>'
        for file in downloads(result)
    )
    return (
        '<div class="os-tools"><label class="os-opacity">Colour '
        '<input type="range" min="0" max="100" value="55" aria-label="Colour of the masks">'
        f'</label><span class="os-downloads">Download {links}</span></div>'
    )


def _table(result: Segmentation) -> str:
    areas, colours = result.areas, viz.palette(len(result.names))
    order = sorted(result.kept, key=lambda name: -areas[name])
    rows = []
    for name in order:
        place = result.names.index(name) + 1
        colour = "#{:02x}{:02x}{:02x}".format(*colours[place])
        rows.append(
            f'<tr class="os-row" tabindex="0" data-id="{place}" data-colour="{colour}" '
            f'data-name="{text(name)}" data-score="{result.scores[name]:.6f}">'
            f'<td><span class="os-swatch" style="background:{colour}"></span>{text(name)}</td>'
            f"<td>{bar(result.scores[name])}{number(result.scores[name])}</td>"
            f"<td>{100 * areas[name]:.1f} %</td></tr>"
        )
    left = 100 * (1 - sum(areas.values()))
    rows.append(f'<tr class="os-background"><td>background</td><td></td><td>{left:.1f} %</td></tr>')
    absent = [name for name in result.names if name not in set(result.kept)]
    more = f" and {len(absent) - _MOST_ABSENT} more" if len(absent) > _MOST_ABSENT else ""
    tail = (
        f'<p class="os-absent">Not found: {text(", ".join(absent[:_MOST_ABSENT]))}{more}</p>'
        if absent
        else ""
    )
    return (
        '<table class="os-table"><thead><tr><th>Label</th><th>Score</th><th>Area</th></tr></thead>'
        f"<tbody>{join(rows)}</tbody></table>{tail}"
    )

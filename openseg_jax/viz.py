"""Pictures of results: palette, label PNG, overlay with legend, grid.

Colours come from one fixed palette, so a label keeps its colour from picture to picture. The first
seven are Okabe and Ito's, made for colour-blind readers; the others are chosen one by one to be as
far as possible from all before, seen with normal, red-blind and green-blind eyes.
"""

from __future__ import annotations

import functools
import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from openseg_jax.errors import UserError, check_shape
from openseg_jax.files import atomic_write
from openseg_jax.types import Bool, Float, Int, UInt8

BACKGROUND = "background"
TEXT_KEY = "openseg_classes"
"""Key of the PNG text chunk that holds the class table as JSON: {"0": "background", ...}."""

PALETTE_LABELS = 255
"""With more labels than this a label PNG is 16-bit grey: palettes have 256 colours."""

_OKABE_ITO = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66),
    (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip
# Machado, Oliveira, Fernandes (2009), full severity, linear RGB.
_RED_BLIND = ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052))
_GREEN_BLIND = ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969))
_INK, _PAPER, _FAINT = (28, 28, 30), (255, 255, 255), (110, 110, 115)


@functools.lru_cache(maxsize=1)
def _colours() -> UInt8[np.ndarray, "256 3"]:
    steps = np.array([0, 51, 102, 153, 204, 255])
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    # Near-black means background and near-white means paper in a legend.
    luma = grid @ np.array([0.299, 0.587, 0.114])
    seeds = np.array([(0, 0, 0), *_OKABE_ITO])
    between = np.array([(26, 77, 128), (77, 128, 26), (128, 26, 77), (230, 179, 128)])
    pool = np.concatenate([grid[(luma > 40) & (luma < 232)], *_shifted(grid, luma, between)])
    chosen = list(seeds)
    views, targets = _seen(pool), _seen(seeds)
    nearest = np.min([_distance(views, targets[:, i]) for i in range(len(seeds))], axis=0)
    while len(chosen) < 256:
        best = int(nearest.argmax())
        chosen.append(pool[best])
        nearest = np.minimum(nearest, _distance(views, views[:, best]))
    palette = np.array(chosen, np.uint8)
    palette.setflags(write=False)
    return palette


def _shifted(grid: np.ndarray, luma: np.ndarray, offsets: np.ndarray) -> list[np.ndarray]:
    moved = [(grid + offset) % 256 for offset in offsets]
    bright = [m @ np.array([0.299, 0.587, 0.114]) for m in moved]
    return [m[(b > 40) & (b < 232)] for m, b in zip(moved, bright, strict=True)]


def _seen(rgb: np.ndarray) -> Float[np.ndarray, "3 n 3"]:
    """Converts sRGB to OKLab as seen by normal, red-blind and green-blind eyes."""
    x = np.asarray(rgb, np.float64) / 255.0
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    to_cone = np.array(
        [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
    )
    to_lab = np.array(
        [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    )
    eyes = (np.eye(3), np.array(_RED_BLIND), np.array(_GREEN_BLIND))
    return np.stack([np.cbrt(np.clip(linear @ e.T, 0, 1) @ to_cone.T) @ to_lab.T for e in eyes])


def _distance(views: Float[np.ndarray, "3 n 3"], one: Float[np.ndarray, "3 3"]) -> np.ndarray:
    return np.linalg.norm(views - one[:, None], axis=-1).min(0)


def palette(count: int) -> UInt8[np.ndarray, "n 3"]:
    """Returns colours for background and `count` labels; beyond 255 labels they repeat.

    Args:
        count: number of labels, background not counted.
    Returns:
        UInt8[count + 1, 3] sRGB; row 0 is black, the background. Always the same.
    """
    index = np.arange(count + 1)
    index[1:] = 1 + (index[1:] - 1) % 255
    return _colours()[index]


def class_table(names: Sequence[str]) -> dict[str, str]:
    """Maps pixel values to names: "0" is background, "i" is `names[i - 1]`."""
    return {str(i): name for i, name in enumerate([BACKGROUND, *names])}


def write_labels(
    path: str | os.PathLike[str], labels: Int[np.ndarray, "H W"], names: Sequence[str]
) -> None:
    """Writes `labels_png` to a file, atomically.

    Raises:
        UserError: when the file cannot be written, or there are too many names.
    """
    data = labels_png(labels, names)
    with atomic_write(path) as aside:
        aside.write_bytes(data)


def labels_png(labels: Int[np.ndarray, "H W"], names: Sequence[str]) -> bytes:
    """Makes a PNG of a label map: pixel values are the labels, the class table is inside.

    Args:
        labels: 0 is background, i is `names[i - 1]`.
        names: up to 255 give a palette PNG, more (up to 65535) a 16-bit grey one.
    Raises:
        UserError: when there are too many names.
    """
    labels = np.asarray(labels)
    check_shape(labels, "H W", "labels")
    if len(names) > 65535:
        raise UserError(f"names: expected at most 65535, got {len(names)}; split the labels")
    if len(names) <= PALETTE_LABELS:
        picture = Image.fromarray(labels.astype(np.uint8))
        picture.putpalette(palette(len(names)).ravel().tolist())
    else:
        picture = Image.fromarray(labels.astype(np.uint16))
    info = PngImagePlugin.PngInfo()
    info.add_itxt(TEXT_KEY, json.dumps(class_table(names), ensure_ascii=False), zip=True)
    file = io.BytesIO()
    picture.save(file, "PNG", pnginfo=info)
    return file.getvalue()


def read_labels(path: str | os.PathLike[str]) -> tuple[Int[np.ndarray, "H W"], list[str]]:
    """Reads what `write_labels` wrote.

    Args:
        path: the PNG.
    Returns:
        label map; names, background left out.
    Raises:
        UserError: when the PNG has no class table.
    """
    with Image.open(path) as picture:
        labels = np.asarray(picture).astype(np.int32)
        table = picture.info.get(TEXT_KEY)
    if table is None:
        raise UserError(f"{path}: the PNG has no class table; it was not written by openseg")
    names = json.loads(table)
    return labels, [names[str(i)] for i in range(1, len(names))]


def boundaries(labels: Int[np.ndarray, "H W"], thickness: int = 1) -> Bool[np.ndarray, "H W"]:
    """Marks pixels within `thickness` of a pixel that has another label."""
    edge = np.zeros(labels.shape, bool)
    for shift in range(1, thickness + 1):
        for axis in (0, 1):
            if labels.shape[axis] > shift:
                a = np.moveaxis(labels, axis, 0)
                e = np.moveaxis(edge, axis, 0)
                differs = a[shift:] != a[:-shift]
                e[shift:] |= differs
                e[:-shift] |= differs
    return edge


def paint(
    image: UInt8[np.ndarray, "H W 3"],
    labels: Int[np.ndarray, "H W"],
    *,
    alpha: float = 0.55,
) -> UInt8[np.ndarray, "H W 3"]:
    """Lays the labels' colours over a picture and draws their outlines.

    Args:
        image: the picture.
        labels: 0 (not painted) or label ids, at the picture's size.
        alpha: share of the colour inside a region, in [0, 1].
    Returns:
        painted picture.
    """
    check_shape(image, "H W 3", "image", dtype="uint8")
    height, width = image.shape[:2]
    check_shape(labels, f"{height} {width}", "labels", fix="bring them to the image's size")
    colour = palette(int(labels.max(initial=0)))[labels].astype(np.float32)
    edge = boundaries(labels, max(1, round(max(height, width) / 500)))
    share = np.where(labels > 0, np.where(edge, 1.0, alpha), 0.0)[..., None].astype(np.float32)
    return np.round(image * (1 - share) + colour * share).astype(np.uint8)


def overlay(
    image: UInt8[np.ndarray, "H W 3"],
    labels: Int[np.ndarray, "H W"],
    names: Sequence[str],
    *,
    scores: Mapping[str, float] | None = None,
    alpha: float = 0.55,
    max_entries: int = 36,
) -> UInt8[np.ndarray, "h w 3"]:
    """Paints a label map over its picture, with a legend underneath.

    A picture for people, not for measuring: tiny ones are enlarged by a whole factor to about 256
    pixels, long sides beyond 2048 pixels are reduced.

    Args:
        image: the picture.
        labels: 0 is background, i is `names[i - 1]`.
        names: label names.
        scores: name -> number shown behind the name.
        alpha: share of the colour inside a region.
        max_entries: the legend lists at most this many labels, largest first.
    Returns:
        the overlay with its legend.
    """
    labels = np.asarray(labels)
    shown, reduced = _for_people(image, labels)
    entries = _entries(labels, names, scores or {}, max_entries)
    return _stack([paint(shown, reduced, alpha=alpha), legend(entries, shown.shape[1])])


def legend(
    entries: Sequence[tuple[str, tuple[int, int, int] | None]], width: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws swatches with names in as many columns as fit.

    Args:
        entries: (text, colour); without a colour the text stands alone.
        width: of the picture above, pixels; the legend is never narrower than 240.
    Returns:
        the legend on white.
    """
    width = max(width, 240)
    font = _font(width)
    size = _text_height(font)
    swatch, gap = size, max(4, size // 3)
    room = width - swatch - 4 * gap
    texts = [_shorten(text, font, room) for text, _ in entries]
    column = max([font.getlength(text) for text in texts], default=0) + swatch + 4 * gap
    columns = int(min(max(1, (width - gap) // column), max(1, len(texts))))
    rows = -(-len(texts) // columns)
    step = size + 2 * gap
    panel = Image.new("RGB", (width, rows * step + 2 * gap), _PAPER)
    draw = ImageDraw.Draw(panel)
    for place, (text, (_, colour)) in enumerate(zip(texts, entries, strict=True)):
        x = 2 * gap + (place // rows) * ((width - gap) // columns)
        y = gap + (place % rows) * step + gap // 2
        if colour is not None:
            draw.rectangle((x, y, x + swatch, y + swatch), fill=colour, outline=_FAINT)
        left = x + (swatch + gap if colour is not None else 0)
        ink = _INK if colour is not None else _FAINT
        draw.text((left, y + swatch / 2), text, fill=ink, font=font, anchor="lm")
    return np.asarray(panel)


def grid(
    rows: Sequence[Sequence[UInt8[np.ndarray, "H W 3"]]],
    captions: Sequence[Sequence[str]] = (),
    *,
    height: int = 240,
    gap: int = 8,
) -> UInt8[np.ndarray, "h w 3"]:
    """Lays rows of pictures out as a table.

    Args:
        rows: pictures of any sizes; each is brought to `height`.
        captions: one a picture in the same arrangement, or none.
        height: of every picture, pixels.
        gap: white space around pictures, pixels.
    Returns:
        one picture on white.
    """
    lines = []
    for number, row in enumerate(rows):
        cells = []
        for place, picture in enumerate(row):
            cell = Image.fromarray(picture)
            resample = Image.Resampling.NEAREST if cell.height < height else Image.Resampling.BOX
            width = max(1, round(cell.width * height / cell.height))
            shown = np.asarray(cell.resize((width, height), resample))
            if captions:
                shown = _stack([shown, _caption(captions[number][place], width)])
            cells.append(_pad(shown, gap))
        tallest = max(cell.shape[0] for cell in cells)
        lines.append(np.concatenate([_grow(cell, tallest, cell.shape[1]) for cell in cells], 1))
    widest = max(line.shape[1] for line in lines)
    return np.concatenate([_grow(line, line.shape[0], widest) for line in lines])


def _for_people(
    image: UInt8[np.ndarray, "H W 3"], labels: Int[np.ndarray, "H W"]
) -> tuple[UInt8[np.ndarray, "h w 3"], Int[np.ndarray, "h w"]]:
    long_side = max(image.shape[:2])
    factor = -(-256 // long_side)
    if factor > 1:
        return _repeat(image, factor), _repeat(labels, factor)
    if long_side <= 2048:
        return image, labels
    height, width = (max(1, round(n * 2048 / long_side)) for n in image.shape[:2])
    small = Image.fromarray(image).resize((width, height), Image.Resampling.BOX)
    rows = np.arange(height) * labels.shape[0] // height
    columns = np.arange(width) * labels.shape[1] // width
    return np.asarray(small), labels[rows[:, None], columns[None]]


def enlarge(image: UInt8[np.ndarray, "H W 3"], least: int = 256) -> UInt8[np.ndarray, "h w 3"]:
    """Repeats pixels by the smallest whole factor that makes the long side at least `least`."""
    return _repeat(image, max(1, -(-least // max(image.shape[:2]))))


def _repeat(x: np.ndarray, factor: int) -> np.ndarray:
    return np.repeat(np.repeat(x, factor, 0), factor, 1)


def _entries(
    labels: Int[np.ndarray, "H W"],
    names: Sequence[str],
    scores: Mapping[str, float],
    max_entries: int,
) -> list[tuple[str, tuple[int, int, int] | None]]:
    areas = np.bincount(labels.ravel(), minlength=len(names) + 1)
    order = [int(i) for i in np.argsort(-areas, kind="stable") if i > 0 and areas[i] > 0]
    colours = palette(len(names))
    entries: list[Any] = []
    for i in order[:max_entries]:
        name = names[i - 1]
        text = f"{' '.join(name.split())}  {100 * areas[i] / labels.size:.1f} %"
        if name in scores:
            text += f"  ({scores[name]:.2f})"
        entries.append((text, tuple(colours[i].tolist())))
    if len(order) > max_entries:
        entries.append((f"… and {len(order) - max_entries} more", None))
    return entries or [("no label was kept", None)]


def _font(width: int) -> Any:
    return ImageFont.load_default(size=int(np.clip(width / 34, 12, 40)))


def _text_height(font: Any) -> int:
    _, top, _, bottom = font.getbbox("Ag")
    return int(bottom - top)


def _shorten(text: str, font: Any, room: float) -> str:
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[: -max(1, len(text) // 20)]
    return text + "…"


def _caption(text: str, width: int) -> UInt8[np.ndarray, "h w 3"]:
    font = ImageFont.load_default(size=13)
    panel = Image.new("RGB", (width, _text_height(font) + 10), _PAPER)
    short = _shorten(text, font, width - 2)
    ImageDraw.Draw(panel).text((1, panel.height / 2), short, fill=_INK, font=font, anchor="lm")
    return np.asarray(panel)


def _stack(parts: Sequence[UInt8[np.ndarray, "h w 3"]]) -> UInt8[np.ndarray, "h w 3"]:
    width = max(part.shape[1] for part in parts)
    return np.concatenate([_grow(part, part.shape[0], width) for part in parts])


def _pad(picture: UInt8[np.ndarray, "h w 3"], gap: int) -> UInt8[np.ndarray, "h w 3"]:
    half = gap // 2
    return np.pad(picture, ((half, half), (half, half), (0, 0)), constant_values=255)


def _grow(
    picture: UInt8[np.ndarray, "h w 3"], height: int, width: int
) -> UInt8[np.ndarray, "h w 3"]:
    more = ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0))
    return np.pad(picture, more, constant_values=255)

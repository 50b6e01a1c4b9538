"""Small pieces of HTML. Everything that a visitor wrote goes through `text`."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from openseg_jax.inputs.images import fit_long_side
from openseg_jax.types import Bool, UInt8

__all__ = [
    "bar", "data_uri", "figure", "join", "number", "picture_uri", "sampled", "spotlight", "text",
]  # fmt: skip

# The page's own template language must not see these in what a visitor wrote.
_TEMPLATE = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;"})
_SMALL = 256


def text(words: object) -> str:
    """Escapes words for elements and quoted attributes."""
    line = " ".join(str(words).split())
    return html.escape(line, quote=True).translate(_TEMPLATE)


def join(parts: Iterable[str]) -> str:
    """Puts pieces of HTML together."""
    return "".join(parts)


def data_uri(data: bytes, kind: str) -> str:
    """Writes bytes as an address that needs no server."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def picture_uri(image: UInt8[np.ndarray, "H W 3"], *, lossless: bool | None = None) -> str:
    """Writes a picture as such an address: small ones as PNG, others as JPEG.

    Args:
        image: RGB bytes.
        lossless: True for PNG, False for JPEG; None decides by size.
    """
    exact = max(image.shape[:2]) <= _SMALL if lossless is None else lossless
    file = io.BytesIO()
    if exact:
        Image.fromarray(image).save(file, "PNG")
    else:
        Image.fromarray(image).save(file, "JPEG", quality=88)
    return data_uri(file.getvalue(), "image/png" if exact else "image/jpeg")


def sampled(x: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Brings rows and columns to `size` by taking the nearest: ids stay ids."""
    rows = np.arange(size[0]) * x.shape[0] // size[0]
    columns = np.arange(size[1]) * x.shape[1] // size[1]
    return x[rows[:, None], columns[None]]


def spotlight(
    image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"], side: int = 160
) -> UInt8[np.ndarray, "h w 3"]:
    """Shows a mask as what it leaves of a picture; the rest is dark and grey.

    Args:
        image: RGB bytes. mask: at the same size.
        side: long side of the result, pixels; smaller pictures keep their size.
    """
    faint = (image.mean(axis=-1, keepdims=True) * 0.25 + 12).astype(np.uint8)
    lit = np.where(mask[..., None], image, np.repeat(faint, 3, axis=-1))
    return fit_long_side(np.ascontiguousarray(lit), side)


def number(value: float) -> str:
    """Writes a score as HTML for people: two places, and no 0.00 for what is not nothing."""
    return "&lt; 0.01" if 0 < value < 0.005 else f"{value:.2f}"


def bar(value: float, threshold: float | None = None) -> str:
    """Draws a score in [0, 1] as a bar, with a mark at a threshold."""
    mark = "" if threshold is None else f'<b style="left:{100 * min(threshold, 1):.1f}%"></b>'
    width = 100 * min(max(value, 0), 1)
    return f'<span class="os-bar"><i style="width:{width:.1f}%"></i>{mark}</span>'


def figure(image: UInt8[np.ndarray, "H W 3"], caption: str, *, kind: str = "") -> str:
    """Shows a picture with a caption, which is HTML."""
    crisp = " os-crisp" if max(image.shape[:2]) <= _SMALL else ""
    return (
        f'<figure class="os-figure {kind}"><img class="{crisp.strip()}" alt="" '
        f'src="{picture_uri(image)}"><figcaption>{caption}</figcaption></figure>'
    )

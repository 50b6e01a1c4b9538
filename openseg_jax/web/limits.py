"""What a visitor may send: sizes, counts and lengths, checked before any work is done."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import numpy as np

from openseg_jax.errors import UserError, expected, unknown_name
from openseg_jax.inputs.images import decode_image
from openseg_jax.inputs.labels import merge_duplicates, parse_labels
from openseg_jax.types import UInt8

__all__ = ["BACKGROUNDS", "FORMATS", "Limits", "background_of", "labels_of", "picture_of"]

BACKGROUNDS = ("default", "none", "own texts")
"""Choices for the texts that may take pixels unreported."""

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
"""Formats of uploads, by Pillow's names: those that it decodes itself, and only after it has told
their size."""

_SHOWN = 60


@dataclasses.dataclass(frozen=True)
class Limits:
    """The bounds of one request.

    Attributes:
        upload_mb: of the file, million bytes.
        megapixels: of the decoded picture, million.
        labels: how many labels; the same number of own background texts.
        label_chars: of one label.
        text_chars: of everything that is typed into one field.
        max_side: pictures are segmented at most at this long side, pixels.
    """

    upload_mb: float = 20.0
    megapixels: float = 25.0
    labels: int = 256
    label_chars: int = 120
    text_chars: int = 20_000
    max_side: int = 1024

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 0 < value < math.inf:
                flag = "--max-" + field.name.removeprefix("max_").replace("_", "-")
                want = "more than 0 and finite"
                raise expected(flag, want, str(value), f"the default is {field.default}")

    @property
    def upload_bytes(self) -> int:
        """The same as `upload_mb`, in bytes."""
        return int(self.upload_mb * 1_000_000)


def labels_of(text: str, limits: Limits) -> tuple[list[str], list[str]]:
    """Reads labels as the command line does: commas or lines, quotes for synonyms.

    Args:
        text: what was typed.
        limits: of the server.
    Returns:
        distinct labels in order; duplicates that were merged away.
    Raises:
        UserError: for none, too many, or one too long.
    """
    names = _texts(text, limits, "labels")
    if not names:
        raise UserError("labels: write at least one, for example: zebra, grass")
    return merge_duplicates(names)


def background_of(choice: str, text: str, limits: Limits) -> list[str] | None:
    """Reads the background: None for the method's own, [] for none, else texts.

    Raises:
        UserError: for an unknown choice, or own texts that are missing or beyond the limits.
    """
    if choice not in BACKGROUNDS:
        unknown_name(str(choice), BACKGROUNDS, "background")
    if choice != "own texts":
        return None if choice == "default" else []
    names = _texts(text, limits, "background")
    if not names:
        raise UserError("background: write at least one text, or choose 'default' or 'none'")
    return merge_duplicates(names)[0]


def picture_of(
    path: str | os.PathLike[str], name: str, limits: Limits
) -> UInt8[np.ndarray, "H W 3"]:
    """Reads an upload, by the rules of `inputs.images`; nothing is decoded that is too large.

    Only `FORMATS` are taken.

    Args:
        path: of the file, chosen by the server.
        name: what the visitor calls it, for messages alone.
        limits: of the server.
    Raises:
        UserError: for a file that is gone, too large, no picture, damaged, or has too many pixels.
    """
    name = shown(name or "picture")
    try:
        size = os.stat(path).st_size
        if size > limits.upload_bytes:
            raise UserError(
                f"{name}: expected at most {limits.upload_mb:g} MB, got {size / 1e6:.1f}; "
                "shrink the picture first"
            )
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"{name}: the upload is no longer here; choose the picture again"
        ) from error
    most = int(limits.megapixels * 1_000_000)
    return decode_image(data, name, max_pixels=most, formats=FORMATS)


def shown(text: str) -> str:
    """Makes one short line of what a visitor wrote, for a message."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


def _texts(text: str, limits: Limits, what: str) -> list[str]:
    if not isinstance(text, str):
        raise UserError(f"{what}: expected text; write names with commas between them")
    if len(text) > limits.text_chars:
        raise UserError(
            f"{what}: expected at most {limits.text_chars:,} characters, got {len(text):,}; "
            "give fewer at a time"
        )
    names = parse_labels(text)
    if len(names) > limits.labels:
        raise UserError(
            f"{what}: expected at most {limits.labels}, got {len(names):,}; give fewer at a time "
            "(the command line takes any number: openseg segment --labels-file)"
        )
    for name in names:
        if len(name) > limits.label_chars:
            raise UserError(
                f"{what}: expected at most {limits.label_chars} characters each, "
                f"got {len(name)} in {shown(name)!r}; shorten it"
            )
    return names

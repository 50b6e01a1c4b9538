"""Pictures of any size on the canvas of an exported model, and their label maps back.

Part of the run.py of exported folders: it uses nothing of this package but its neighbours here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from openseg_jax.export.words import ExportError

__all__ = ["fit", "read_image", "restore"]

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# What Pillow raises on files that are no pictures, or damaged ones.
_DAMAGE = (OSError, ValueError, SyntaxError, TypeError, EOFError, Image.DecompressionBombError)


def read_image(path: str | Path) -> np.ndarray:
    """Reads a picture as upright 8-bit RGB, as the library does but for CMYK's colour profiles."""
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode.startswith("I") or picture.mode == "F":
                return _from_deep(np.asarray(picture))
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                layer = picture.convert("RGBA")
                white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
                picture = Image.alpha_composite(white, layer)
            return np.array(picture.convert("RGB"))
    except _DAMAGE as error:
        raise ExportError(f"{path}: cannot be read as a picture ({error}); check it") from error


def _from_deep(values: np.ndarray) -> np.ndarray:
    """Brings 16 bits, 32 bits and floats to grey levels: Pillow would cut them off at 255."""
    grey = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(grey.min()), float(grey.max())
    if values.dtype.itemsize == 2:
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 65535:
        steps = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
        low, high = 0.0, next(step for step in steps if high <= step)
    grey = (grey - low) * (255.0 / max(high - low, 1e-12))
    return np.repeat(np.round(grey).astype(np.uint8)[..., None], 3, axis=-1)


def fit(
    image: np.ndarray, canvas: tuple[int, int], rule: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Puts a picture (or a mask) at the top left of the canvas, and says which pixels exist.

    Args:
        image: UInt8[h w 3], or Float[h w].
        canvas: (H, W), pixels.
        rule: `rule`: "fit" keeps the aspect ratio, "squash" fills the canvas; `short_side`: what
            pictures are resized to, 0 leaves those alone that are small enough; `filter`.

    Returns:
        the canvas, and Bool[H W].
    """
    height, width = image.shape[:2]
    size = canvas
    if rule["rule"] == "fit":
        room = min(canvas[0] / height, canvas[1] / width)
        want = rule["short_side"] / min(height, width) if rule["short_side"] else 1.0
        scale = min(room, want)
        rows, columns = (max(int(n * scale + 0.5), 1) for n in (height, width))
        size = min(rows, canvas[0]), min(columns, canvas[1])
    if size != (height, width):
        kind = _FILTERS[rule["filter"] if image.ndim == 3 else "bilinear"]
        image = np.asarray(Image.fromarray(image).resize((size[1], size[0]), kind))
    more = [(0, canvas[0] - size[0]), (0, canvas[1] - size[1])] + [(0, 0)] * (image.ndim - 2)
    valid = np.zeros(canvas, bool)
    valid[: size[0], : size[1]] = True
    return np.pad(image, more), valid


def restore(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Brings a label map to a picture's own size.

    Each label's mask is resized bilinearly, and every pixel takes the strongest.
    """
    if labels.shape == size:
        return labels
    best, result = np.full(size, -1.0, np.float32), np.zeros(size, labels.dtype)
    for label in np.unique(labels):
        mask = Image.fromarray((labels == label).astype(np.float32))
        soft = np.asarray(mask.resize((size[1], size[0]), Image.Resampling.BILINEAR))
        stronger = soft > best
        best[stronger], result[stronger] = soft[stronger], label
    return result

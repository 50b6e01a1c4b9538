"""Reading any picture that Pillow reads as plain 8-bit RGB, and the named rule for large ones.

What happens to what is not 8-bit RGB:

| picture | becomes |
|---|---|
| EXIF orientation | turned upright |
| animation (GIF, WebP, APNG, TIFF) | its first frame |
| alpha, palette or grey with transparency | composited on white |
| CMYK | sRGB through the embedded colour profile, else the plain formula |
| 16-bit grey | full range: 65535 is white (16-bit RGB is cut to its high byte) |
| 32-bit integers, floats | [0, 1] floats and [0, 255], [0, 65535] integers by full range; else
  stretched from the least to the greatest value; not-a-number is black |
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from openseg_jax.errors import UserError, check_shape
from openseg_jax.files import nearest_path
from openseg_jax.types import Int, UInt8

MAX_PIXELS = 100_000_000
"""Pictures with more pixels are refused before they are decoded."""

RESIZE_RULE = "resize_long_side"

# What Pillow's decoders raise on damaged files, besides OSError.
_DAMAGE = (
    ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError,
    ZeroDivisionError, AttributeError, struct.error, MemoryError,
)  # fmt: skip


def read_image(
    path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "H W 3"]:
    """Reads a picture as upright 8-bit RGB.

    Args:
        path: a file in any format that Pillow reads.
        max_pixels: larger pictures are refused, before any pixel is decoded.
    Returns:
        UInt8[H W 3] in [0, 255], sRGB.
    Raises:
        UserError: naming the file and the fix when it is missing, a folder, empty, no picture,
            damaged or too large.
    """
    path = Path(path)
    _check_file(path)
    return np.array(_read(path, path, max_pixels))


def decode_image(
    data: bytes,
    name: str,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: Sequence[str] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Reads a picture that is in memory, by the same rules.

    Args:
        data: the bytes of a file.
        name: what it is called in messages.
        max_pixels: larger pictures are refused, before any pixel is decoded.
        formats: those that are taken, by Pillow's names; None takes all. For files of strangers:
            icons are decoded before their size is known, and EPS starts another program.
    Returns:
        UInt8[H W 3] in [0, 255], sRGB.
    Raises:
        UserError: when it is no picture, damaged or too large.
    """
    return np.array(decode_picture(data, name, max_pixels=max_pixels, formats=formats))


def decode_picture(
    data: bytes,
    name: str,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: Sequence[str] | None = None,
) -> Image.Image:
    """Does what `decode_image` does, and leaves the pixels with Pillow: mode "RGB".

    For those who hand them on to Pillow: the way through an array is four copies.
    """
    if not data:
        raise UserError(f"{name}: the file is empty; copy or download it again")
    return _read(io.BytesIO(data), name, max_pixels, formats)


def _read(
    file: Path | io.BytesIO,
    name: str | Path,
    max_pixels: int,
    formats: Sequence[str] | None = None,
) -> Image.Image:
    if formats is not None:
        # Which formats there are depends on how Pillow was built.
        Image.init()
        formats = [kind for kind in formats if kind in Image.OPEN]
    try:
        # Pillow warns at its own size limit; ours decides.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=formats) as picture:
                _check_size(name, picture.size, max_pixels)
                return _to_rgb(_upright(picture))
    except Image.DecompressionBombError as error:
        raise _too_large(name, "more than Pillow allows", max_pixels) from error
    except UnidentifiedImageError as error:
        which = "Pillow reads" if formats is None else "is taken here"
        raise UserError(
            f"{name}: not a picture in a format that {which}; convert it to PNG or JPEG"
        ) from error
    except UserError:
        raise
    except (OSError, *_DAMAGE) as error:
        reason = str(error) or type(error).__name__
        raise UserError(
            f"{name}: the picture is damaged or cut short ({reason}); copy or download it again"
        ) from error


def fit_long_side(image: UInt8[np.ndarray, "H W 3"], limit: int) -> UInt8[np.ndarray, "h w 3"]:
    """Shrinks a picture so that its long side is at most `limit` (the rule "resize_long_side").

    Args:
        image: the picture.
        limit: pixels.
    Returns:
        the same array when it fits; else its antialiased bicubic reduction, aspect ratio kept to
        the nearest pixel and no side below 1.
    """
    check_shape(image, "H W 3", "image", dtype="uint8")
    height, width = image.shape[:2]
    long_side = max(height, width)
    if long_side <= limit:
        return image
    size = [max(1, round(side * limit / long_side)) for side in (width, height)]
    small = Image.fromarray(image).resize((size[0], size[1]), Image.Resampling.BICUBIC)
    return np.asarray(small)


def restore_labels(labels: Int[np.ndarray, "h w"], size: tuple[int, int]) -> Int[np.ndarray, "H W"]:
    """Brings a label map back to the picture's own size with smooth edges.

    Each label's mask is enlarged bilinearly and every pixel takes the strongest one. Labels are
    handled one at a time, so the memory needed does not grow with their number.

    Args:
        labels: class ids at the size that was segmented.
        size: (H, W) of the original picture.
    Returns:
        class ids; ties go to the smaller id.
    """
    labels = np.asarray(labels)
    if labels.shape == size:
        return labels
    best = np.full(size, -1.0, np.float32)
    result = np.zeros(size, labels.dtype)
    for label in np.unique(labels):
        mask = Image.fromarray((labels == label).astype(np.float32))
        soft = np.asarray(mask.resize((size[1], size[0]), Image.Resampling.BILINEAR))
        stronger = soft > best
        best[stronger], result[stronger] = soft[stronger], label
    return result


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not a picture; name the files in it: {path}/*.jpg")
    try:
        size = path.stat().st_size
        if path.is_file():
            path.open("rb").close()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {nearest_path(path)}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be read ({reason}); check the path and rights") from error
    if not path.is_file():
        raise UserError(f"{path}: is not a regular file; save the picture to one first")
    if not size:
        raise UserError(f"{path}: the file is empty; copy or download it again")


def _check_size(name: str | Path, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise _too_large(name, f"{width}x{height} = {width * height / 1e6:.0f} million", max_pixels)


def _too_large(name: str | Path, got: str, max_pixels: int) -> UserError:
    return UserError(
        f"{name}: expected at most {max_pixels / 1e6:g} million pixels, got {got}; "
        "shrink or crop the picture first"
    )


def _upright(picture: Image.Image) -> Image.Image:
    picture.load()
    try:
        # Turned in place: otherwise Pillow copies pictures that need no turning.
        ImageOps.exif_transpose(picture, in_place=True)
    except (OSError, *_DAMAGE):
        pass  # cameras write broken EXIF blocks; the pixels are fine, so show them as they are
    return picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        return Image.fromarray(_from_deep(np.asarray(picture)))
    if picture.mode == "CMYK":
        picture = _from_cmyk(picture)
    alpha = picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info
    if not alpha:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    if picture.mode == "La":
        picture = picture.convert("LA")
    layer = picture.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")


def _from_deep(values: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    floats = values.dtype.kind == "f"
    sixteen = values.dtype.itemsize == 2
    grey = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(grey.min()), float(grey.max())
    if sixteen:
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 65535:
        steps = (1.0, 255.0, 65535.0) if floats else (255.0, 65535.0)
        low, high = 0.0, next(step for step in steps if high <= step)
    grey = (grey - low) * (255.0 / max(high - low, 1e-12))
    return np.repeat(np.round(grey).astype(np.uint8)[..., None], 3, axis=-1)


def _from_cmyk(picture: Image.Image) -> Image.Image:
    profile = picture.info.get("icc_profile")
    try:
        from PIL import ImageCms
    except ImportError:
        # Pillow can be built without little-cms; the plain formula is close enough then.
        profile = None
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(picture, source, target, outputMode="RGB")
        except (OSError, ValueError, ImageCms.PyCMSError):
            converted = None
        if converted is not None:
            return converted
    return picture.convert("RGB")

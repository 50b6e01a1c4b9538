"""Reading masks that somebody has drawn, from the usual formats.

| given | each mask is |
|---|---|
| PNG (TIFF, BMP, GIF), palette or grey, 8 or 16 bits | one value but 0: a label map. 255 (65535 in
  16 bits) is "ignore" where other values occur |
| a folder of such pictures | one file: what is not 0 is inside. It is called as the file is |
| NPZ or NPY, [M H W] | one plane of booleans, 0 and 1, or floats in [0, 1] |
| NPZ or NPY, [H W] | of integers a label map as above; else it is one mask |
| JSON | one COCO run-length code, alone or under "segmentation", in a list that may stand under
  "masks" or "annotations" |

Masks have the picture's size. An empty mask is kept; who uses the masks decides what it means.
"""

from __future__ import annotations

import json
import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from openseg_jax.errors import UserError
from openseg_jax.ops import rle

__all__ = ["check_masks", "read_masks"]

_PICTURES = {".png", ".tif", ".tiff", ".bmp", ".gif"}
_FORMATS = "PNG label map, NPZ, COCO RLE JSON, or a folder of PNGs"
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, KeyError, TypeError, zipfile.BadZipFile)


def read_masks(
    path: str | os.PathLike[str], size: tuple[int, int]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Reads masks of a picture.

    Args:
        path: a file or folder, see the module's table.
        size: (H, W) of the picture, which every mask has to have.

    Returns:
        Bool[M H W] or Float32[M H W] in [0, 1], and a name for each.

    Raises:
        UserError: naming the file and the fix, when it is missing, unreadable, of another format
            or size, without any mask, or holds numbers that no mask has.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give masks as {_FORMATS}")
    try:
        if path.is_dir():
            masks, names = _folder(path, size)
        elif path.suffix.lower() in _PICTURES:
            masks, names = _label_map(_grey(path), path)
        elif path.suffix.lower() in (".npz", ".npy"):
            masks, names = _arrays(path)
        elif path.suffix.lower() == ".json":
            masks, names = _codes(path, size)
        else:
            raise UserError(f"{path}: masks of an unknown format; give {_FORMATS}")
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: not a picture; give masks as {_FORMATS}") from error
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path}: the masks cannot be read ({reason}); write them again") from error
    return check_masks(masks, size, str(path)), tuple(names)


def check_masks(masks: Any, size: tuple[int, int], what: str = "masks") -> np.ndarray:
    """Checks that an array holds masks of a picture, and returns them as booleans or floats.

    Args:
        masks: [M H W] of booleans, of 0 and 1, or of floats in [0, 1].
        size: (H, W) of the picture.
        what: where they come from, for messages.

    Raises:
        UserError: for another shape, no mask at all, NaN, or values outside [0, 1].
    """
    masks = np.asarray(masks)
    if masks.ndim != 3:
        raise UserError(
            f"{what}: expected masks [M H W], got an array {list(masks.shape)}; stack them first"
        )
    if not len(masks):
        raise UserError(f"{what}: expected at least one mask, got none; draw one first")
    if masks.shape[1:] != tuple(size):
        raise UserError(
            f"{what}: expected masks of the picture's size {size[1]}x{size[0]}, got "
            f"{masks.shape[2]}x{masks.shape[1]}; resize them (nearest) first"
        )
    if masks.dtype == bool:
        return masks
    if masks.dtype.kind not in "iuf":
        raise UserError(f"{what}: expected numbers or booleans, got {masks.dtype}; convert them")
    # One mask at a time: no copy of all of them for a check.
    for i, mask in enumerate(masks):
        if masks.dtype.kind == "f" and not np.isfinite(mask).all():
            raise UserError(
                f"{what}: mask {i} holds NaN or infinity; replace what is not a number with 0"
            )
        low, high = mask.min(), mask.max()
        if low < 0 or high > 1:
            raise UserError(
                f"{what}: expected values in [0, 1], mask {i} has {low:g} to {high:g}; divide them "
                "by their largest value, or put a sigmoid behind logits"
            )
    return masks.astype(bool) if masks.dtype.kind in "iu" else masks.astype(np.float32, copy=False)


def _grey(path: Path) -> np.ndarray:
    """Reads the values of a palette or grey picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as picture:
            picture.load()
            if picture.mode == "1":
                return np.asarray(picture).astype(np.uint8)
            if picture.mode in ("P", "L") or picture.mode.startswith("I"):
                return np.asarray(picture)
            values = np.asarray(picture)
    # Programs that only write RGB put the grey value into all three channels.
    if values.ndim == 3 and values.shape[2] >= 3 and values.dtype == np.uint8:
        rgb = values[..., :3]
        if (rgb == rgb[..., :1]).all():
            return rgb[..., 0]
    raise UserError(
        f"{path}: not a mask: expected a palette or grey picture, got colours (mode "
        f"{picture.mode}); save label numbers as 8 or 16-bit grey PNG"
    )


def _label_map(values: np.ndarray, path: Path) -> tuple[np.ndarray, list[str]]:
    labels = np.unique(values)
    labels = labels[labels != 0]
    ignore = {"uint8": 255, "uint16": 65535, "int32": 65535}.get(values.dtype.name)
    if len(labels) > 1:
        labels = labels[labels != ignore]
    if not len(labels):
        raise UserError(f"{path}: no foreground: every pixel is 0; draw at least one region")
    masks = np.zeros((len(labels), *values.shape), bool)
    for i, label in enumerate(labels):
        np.equal(values, label, out=masks[i])
    return masks, [str(label) for label in labels.tolist()]


def _folder(path: Path, size: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
    def order(file: Path) -> list[Any]:
        parts = re.split(r"(\d+)", file.stem)
        return [int(x) if x.isdigit() else x.lower() for x in parts]

    files = sorted((f for f in path.iterdir() if f.suffix.lower() in _PICTURES), key=order)
    if not files:
        raise UserError(f"{path}: no masks in this folder; put one PNG for each mask there")
    masks = np.zeros((len(files), *size), bool)
    for i, file in enumerate(files):
        try:
            values = _grey(file)
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{file}: not a readable mask; save it as grey PNG") from error
        check_masks(values[None] != 0, size, str(file))
        masks[i] = values != 0
    return masks, [file.stem for file in files]


def _arrays(path: Path) -> tuple[np.ndarray, list[str]]:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        values = loaded
    else:
        with loaded:
            names = loaded.files
            if "masks" not in names and len(names) != 1:
                raise UserError(
                    f"{path}: expected an array named 'masks', got {', '.join(names) or 'none'}; "
                    "write np.savez(path, masks=masks)"
                )
            values = loaded["masks" if "masks" in names else names[0]]
    if values.ndim == 2 and values.dtype.kind in "iu":
        return _label_map(values, path)
    values = values[None] if values.ndim == 2 else values
    return values, [str(i) for i in range(len(values))]


def _codes(path: Path, size: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
    data = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(data, dict) and "counts" not in data:
        key = next((k for k in ("masks", "annotations", "segments") if k in data), None)
        if key is None:
            raise UserError(
                f"{path}: expected a list of COCO run-length codes, or one under 'masks' or "
                f"'annotations', got keys {', '.join(map(str, list(data)[:5])) or 'none'}"
            )
        data = data[key]
    entries = data if isinstance(data, list) else [data]
    masks = np.zeros((len(entries), *size), bool)
    names = []
    for i, entry in enumerate(entries):
        code = entry.get("segmentation", entry) if isinstance(entry, dict) else entry
        if not (isinstance(code, dict) and {"size", "counts"} <= set(code)):
            raise UserError(
                f"{path}: mask {i} is no run-length code (size and counts); polygons have to be "
                "converted first, e.g. with pycocotools' frPyObjects"
            )
        if tuple(code["size"]) != tuple(size):
            height, width = code["size"]
            raise UserError(
                f"{path}: expected masks of the picture's size {size[1]}x{size[0]}, mask {i} has "
                f"{width}x{height}; resize it first"
            )
        masks[i] = rle.decode(code)
        known = entry if isinstance(entry, dict) else {}
        names.append(str(known.get("label", known.get("id", i))))
    return masks, names

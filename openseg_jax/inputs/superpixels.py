"""Superpixels of pictures: computed where the picture is loaded, cropped with it, kept on disk.

SegCLIP's third loss asks patches of one superpixel to join one region. Its superpixels are those of
Felzenszwalb and Huttenlocher (2004), made of the whole picture with its short side at 224 pixels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import logging
from PIL import Image

from openseg_jax.errors import UserError, check_shape, expected, unknown_name
from openseg_jax.files import atomic_write
from openseg_jax.types import Int, UInt8

# Fractions of the picture's sides: x0, y0, x1, y1.
Fractions = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Felzenszwalb:
    """The published parameters, as scikit-image names them.

    Attributes:
        scale: larger gives larger superpixels.
        sigma: of the Gaussian that smooths the picture before, pixels.
        min_size: smaller superpixels are merged into a neighbour, pixels.
        short_side: larger pictures are reduced to this short side first, pixels; 0 never.
    """

    scale: float = 224.0
    sigma: float = 0.9
    min_size: int = 224
    short_side: int = 224

    def segment(self, image: UInt8[np.ndarray, "H W 3"]) -> Int[np.ndarray, "h w"]:
        """Labels each pixel of a picture with the id of its superpixel.

        Args:
            image: RGB bytes. Where both sides are above `short_side` it is reduced (Lanczos) to
                h×w with that short side, as the published data are stored.

        Returns:
            Int32[h w], ids 0, 1, 2, …
        """
        check_shape(image, "H W 3", "image", dtype="uint8")
        # Imported where it is used: it takes a second, and inference never needs it.
        from skimage.segmentation import felzenszwalb

        found = felzenszwalb(
            _reduced(image, self.short_side), scale=self.scale, sigma=self.sigma,
            min_size=self.min_size,
        )  # fmt: skip
        return found.astype(np.int32)


def _reduced(image: UInt8[np.ndarray, "H W 3"], short: int) -> UInt8[np.ndarray, "h w 3"]:
    height, width = image.shape[:2]
    if not short or min(height, width) <= short:
        return image
    long = int(short * max(height, width) / min(height, width))
    size = (short, long) if width <= height else (long, short)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def crop_map(segments: Int[np.ndarray, "h w"], box: Fractions) -> Int[np.ndarray, "..."]:
    """Cuts a box out of a map of superpixels.

    Columns int(x0·w) to ceil(x1·w) and rows likewise; a box of less than two pixels a side gives
    the whole map, as in the published code.

    Args:
        segments: ids by pixel.
        box: fractions of the sides, from `inputs.crops.Crop.fractions`.
    """
    height, width = segments.shape
    x0, y0, x1, y1 = (float(x) for x in box)
    if not (0 <= x0 <= x1 <= 1 and 0 <= y0 <= y1 <= 1):
        raise expected("box", "0 <= x0 <= x1 <= 1, the same for y", str(box), "give fractions")
    part = segments[
        int(y0 * height) : int(np.ceil(y1 * height)), int(x0 * width) : int(np.ceil(x1 * width))
    ]
    return part if min(part.shape) >= 2 else segments


def patch_ids(
    segments: Int[np.ndarray, "h w"],
    box: Fractions,
    size: int,
    patch: int,
    *,
    parity: str | None = None,
) -> Int[np.ndarray, "g g"]:
    """Gives each patch of a square crop the id of a superpixel.

    The crop is resized to size×size by the nearest pixel (row ⌊i·in/out⌋). A patch then takes the
    id that most of its pixels have, the smallest of equals.

    Args:
        segments: ids by pixel of the whole picture.
        box: the crop, see `crop_map`.
        size: side of the crop as the model sees it, pixels.
        patch: side of a patch, pixels.
        parity: "reference" takes the mean of the pixels' ids, cut to an integer, as published: a
            patch on a border between superpixels 2 and 8 may then join superpixel 5, which lies
            anywhere.

    Raises:
        UserError: for a size that is no multiple of the patch, or an unknown parity.
    """
    if parity not in (None, "reference"):
        unknown_name(str(parity), ["reference"], "parity")
    if size % patch:
        raise expected("size", f"a multiple of the patch {patch}", str(size), "round it")
    part, grid = crop_map(segments, box), size // patch
    rows, columns = (np.arange(size) * side // size for side in part.shape)
    pixels = part[rows][:, columns].reshape(grid, patch, grid, patch)
    pixels = pixels.transpose(0, 2, 1, 3).reshape(grid, grid, patch * patch)
    if parity == "reference":
        return pixels.astype(np.float64).mean(axis=-1).astype(np.int32)
    return _majority(pixels)


def _majority(pixels: Int[np.ndarray, "g g n"]) -> Int[np.ndarray, "g g"]:
    ids, index = np.unique(pixels, return_inverse=True)
    flat = index.reshape(-1, pixels.shape[-1])
    counts = np.zeros((len(flat), len(ids)), np.int32)
    np.add.at(counts, (np.arange(len(flat))[:, None], flat), 1)
    return ids[counts.argmax(axis=1)].reshape(pixels.shape[:2]).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Superpixels:
    """Superpixels by picture, kept on disk when a folder is given.

    A file is named by a hash of the picture's bytes and the parameters, so that other pictures,
    other names or other parameters never meet. Files appear whole or not at all; workers and runs
    may share the folder.

    Attributes:
        method: how they are made.
        cache: folder; None computes them each time (about 0.1 s a picture).
    """

    method: Felzenszwalb = Felzenszwalb()
    cache: str | os.PathLike[str] | None = None

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> Int[np.ndarray, "h w"]:
        """Returns the ids by pixel of a picture, as `Felzenszwalb.segment`."""
        if self.cache is None:
            return self.method.segment(image)
        path = self.path(image)
        found = _read(path)
        if found is None:
            found = self.method.segment(image)
            _write(path, found)
        return found

    def path(self, image: UInt8[np.ndarray, "H W 3"]) -> Path:
        """Names the file that keeps a picture's superpixels."""
        digest = hashlib.blake2b(repr((self.method, image.shape)).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(image).data)
        name = digest.hexdigest()
        # Two levels, for a million files in one folder are slow everywhere.
        return Path(self.cache or ".") / name[:2] / f"{name[2:]}.npz"

    def patches(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        box: Fractions,
        size: int,
        patch: int,
        *,
        parity: str | None = None,
    ) -> Mapping[str, Int[np.ndarray, "g g"]]:
        """Makes the training example's `superpixels`; arguments as in `patch_ids`."""
        return {"superpixels": patch_ids(self(image), box, size, patch, parity=parity)}


def _read(path: Path) -> np.ndarray | None:
    try:
        with np.load(path) as file:
            return file["ids"].astype(np.int32)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logging.warning("%s: unreadable (%s); made again", path, error)
        return None


def _write(path: Path, ids: np.ndarray) -> None:
    small = ids.astype(np.uint16) if ids.max() < 2**16 else ids
    buffer = io.BytesIO()
    np.savez_compressed(buffer, ids=small)
    try:
        with atomic_write(path) as aside:
            aside.write_bytes(buffer.getvalue())
    except UserError as error:
        # A full disk must not end a training run: what is not kept is made again.
        logging.log_first_n(logging.WARNING, "superpixels are not kept: %s", 3, error)

"""Writes small archives the way the official ones of the hard data sets are laid out."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

Files = Mapping[str, bytes]


def write_zip(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, files: Files) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def picture(size: tuple[int, int], seed: int, format: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return encoded(pixels, format)


def encoded(pixels: np.ndarray, format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def ade_full(numbers: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray]) -> Files:
    """ADE20K_2021_17_01.zip: colours of class numbers, and masks of instances beside them."""
    top, files = "ADE20K_2021_17_01/images/ADE/validation/urban/street/", {}
    for name, values in numbers.items():
        rng = np.random.default_rng(0)
        blue = rng.integers(0, 256, values.shape)
        colours = np.stack([values // 256 * 10, values % 256, blue], axis=-1).astype(np.uint8)
        files[f"{top}{name}.jpg"] = encoded(images[name], "JPEG")
        files[f"{top}{name}_seg.png"] = encoded(colours, "PNG")
        files[f"{top}{name}/instance_000_{name}.png"] = encoded(values.astype(np.uint8), "PNG")
        files[f"{top}{name}.json"] = b"{}"
    files["ADE20K_2021_17_01/index_ade20k.pkl"] = b"not read"
    files["ADE20K_2021_17_01/images/ADE/training/x/y/ADE_train_00000001.jpg"] = b"not read"
    return files


def label_mats(values: Mapping[str, np.ndarray]) -> Files:
    """trainval.tar.gz of PASCAL Context."""
    files = {"trainval/labels.txt": b"1: accordion\n"}
    for name, labels in values.items():
        buffer = io.BytesIO()
        scipy.io.savemat(buffer, {"LabelMap": labels.astype(np.uint16)}, do_compression=True)
        files[f"trainval/{name}.mat"] = buffer.getvalue()
    return files


def voc2010(sizes: Mapping[str, tuple[int, int]]) -> Files:
    """VOCtrainval_03-May-2010.tar."""
    top = "VOCdevkit/VOC2010/"
    files = {f"{top}Annotations/{name}.xml": b"<a/>" for name in sizes}
    pictures = {
        f"{top}JPEGImages/{n}.jpg": picture(size, i) for i, (n, size) in enumerate(sizes.items())
    }
    return {**files, **pictures}


def instances(pictures: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> bytes:
    """instances_*.json."""
    return json.dumps(
        {
            "info": {"year": 2017}, "licenses": [], "images": pictures, "annotations": annotations,
            "categories": [{"id": 1, "name": "person", "supercategory": "person"}],
        }
    ).encode()  # fmt: skip


def refs(rows: list[dict[str, Any]]) -> bytes:
    """refs(unc).p: protocol 2, as Python 2 wrote it."""
    return pickle.dumps(rows, 2)

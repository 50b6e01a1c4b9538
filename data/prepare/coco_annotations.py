"""COCO's annotation files: instances as masks, polygons and run lengths alike."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openseg_jax.errors import UserError, expected
from openseg_jax.ops import rle
from openseg_jax.ops.polygons import fill_polygon
from openseg_jax.types import Bool

__all__ = ["InstanceMask", "instance_mask", "read_instances", "read_json", "whole"]


@dataclasses.dataclass(frozen=True)
class InstanceMask:
    """An instance's pixels.

    Attributes:
        mask: Bool[H W], what any of its polygons covers.
        twice: Bool[H W], what more than one of its polygons covers; None where that is nothing.
    """

    mask: Bool[np.ndarray, "H W"]
    twice: Bool[np.ndarray, "H W"] | None = None


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        UserError: for a file that is missing, cut short or no JSON.
    """
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: expected a complete JSON file, found a damaged one ({str(error)[:80]}); "
            "get the file again"
        ) from error


def whole(row: Any, key: str) -> int:
    """Returns a row's whole number, or raises `KeyError` naming the key."""
    value = row.get(key) if isinstance(row, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int):
        raise KeyError(key)
    return value


def read_instances(path: Path) -> tuple[dict[int, Any], list[Any]]:
    """Reads an instances file.

    Args:
        path: e.g. `instances_val2017.json`.

    Returns:
        pictures by id, each with id, file_name, height and width; annotations in file order, each
        with id, image_id, category_id and segmentation.

    Raises:
        UserError: for a damaged file, or one of another kind.
    """
    content = read_json(path)
    try:
        pictures = {}
        for row in content["images"]:
            pictures[whole(row, "id")] = row
            # A name with folders in it could lead anywhere.
            if not isinstance(row["file_name"], str) or Path(row["file_name"]).name in ("", ".."):
                raise KeyError("file_name")
            if min(whole(row, "height"), whole(row, "width")) < 1:
                raise KeyError("height")
        annotations = content["annotations"]
        for row in annotations:
            for key in ("id", "image_id", "category_id"):
                whole(row, key)
            if row["image_id"] not in pictures:
                raise UserError(
                    f"{path}: annotation {row['id']} is of picture {row['image_id']}, which the "
                    "file does not list; get the file again"
                )
            if "segmentation" not in row:
                raise KeyError("segmentation")
    except (KeyError, TypeError, AttributeError) as error:
        raise expected(
            str(path), "COCO instances: images and annotations", f"a file without {error}",
            "name an instances file, or get it again",
        ) from error  # fmt: skip
    return pictures, annotations


def instance_mask(annotation: Mapping[str, Any], size: tuple[int, int]) -> InstanceMask:
    """Draws an annotation.

    Args:
        annotation: `segmentation` is a list of polygons, or run lengths (plain or compressed), as
            crowds and a few small things have.
        size: (H, W) of the picture.

    Raises:
        UserError: naming the annotation, for polygons or run lengths that are damaged or of
            another size.
    """
    outline, name = annotation["segmentation"], f"annotation {annotation.get('id')}"
    try:
        if not isinstance(outline, list):
            if tuple(outline["size"]) != size:
                raise expected(
                    "size", f"{list(size)} of the picture", str(outline["size"])[:40],
                    "get the annotations again",
                )  # fmt: skip
            return InstanceMask(rle.decode(outline))
        count = np.zeros(size, np.uint16)
        for polygon in outline:
            # Points and lines, which hand-made annotations may hold, cover no area.
            if len(polygon) not in (2, 4):
                count += fill_polygon(polygon, size)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise expected(
            name, "polygons or run lengths", repr(outline)[:60], "get the annotations again"
        ) from error
    twice = count > 1
    return InstanceMask(count > 0, twice if twice.any() else None)

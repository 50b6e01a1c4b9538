"""A COCO annotations file of one segmented picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from openseg_jax.api import Segmentation
from openseg_jax.ops import rle

__all__ = ["coco_data"]


def coco_data(result: Segmentation, file_name: str = "picture.png") -> dict[str, Any]:
    """Writes a result as COCO data: images, categories, one annotation a mask that has pixels.

    Args:
        result: of one picture.
        file_name: of the picture.
    Returns:
        JSON data. Category i is `result.names[i - 1]`, those that were not found included; a
        bounding box is [left, top, width, height] in pixels; `score` is ours, COCO's own result
        files have it too.
    Source:
        https://cocodataset.org/#format-data; masks as compressed RLE, which pycocotools decodes.
    """
    height, width = result.label_map.shape
    found = []
    for name in result.kept:
        place = result.names.index(name) + 1
        mask = result.label_map == place
        if not mask.any():
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        top, left = int(rows[0]), int(columns[0])
        found.append(
            {
                "id": len(found) + 1,
                "image_id": 1,
                "category_id": place,
                "segmentation": rle.encode(mask),
                "area": int(mask.sum()),
                "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                "iscrowd": 0,
                "score": round(result.scores[name], 6),
            }
        )
    models = ", ".join(m.get("name", "unknown weights") for m in result.record.get("models", ()))
    return {
        "info": {
            "description": f"{result.record.get('method', 'segmentation')} with {models}",
            "version": str(result.record.get("openseg_jax", "")),
            "notes": list(result.notes),
        },
        "licenses": [],
        "images": [{"id": 1, "width": width, "height": height, "file_name": file_name}],
        "categories": [
            {"id": i, "name": name, "supercategory": ""} for i, name in enumerate(result.names, 1)
        ],
        "annotations": found,
    }

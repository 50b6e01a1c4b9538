"""Writes small data sets the way other projects lay them out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from openseg_jax.inputs.augment import IGNORE
from openseg_jax.inputs.data_sets import DataSet, Layout


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written: `labels` by item name, in classes or IGNORE."""

    images: Path
    labels: Path
    truth: dict[str, np.ndarray]


def picture(size: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def save_labels(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    deep = values.max() > 255
    Image.fromarray(values.astype(np.uint16 if deep else np.uint8)).save(path)


def write_layout(facts: DataSet, layout: Layout, root: Path, count: int = 2) -> Written:
    """Writes `count` pictures and label maps in a layout's first folders."""
    images, labels = (
        root / folders[0].replace("|", "/") for folders in (layout.images, layout.labels)
    )
    images.mkdir(parents=True, exist_ok=True)
    table = layout.table()
    values = np.flatnonzero(table >= IGNORE)
    truth = {}
    for i in range(count):
        name, size = f"2007_{i:06d}", (12 + i, 17)
        rng = np.random.default_rng(i)
        drawn = rng.choice(values, size)
        drawn.flat[: len(layout.ignored)] = layout.ignored[: drawn.size]
        if table.size > 256:
            drawn.flat[0] = values.max()
        Image.fromarray(picture(size, i)).save(images / (name + layout.image_end))
        save_labels(labels / (name + layout.label_end), drawn)
        truth[name] = table[drawn]
    for listed in layout.lists:
        path = root / listed.replace("|", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in truth))
    return Written(images, labels, truth)

"""An export of tiny weights, made once, and what a segmenter says of the same pictures."""

from __future__ import annotations

import importlib.util
import shutil

import numpy as np
import pytest

from openseg_jax import export
from openseg_jax.methods.base import load_segmenter
from openseg_jax.ops.masks import to_label_map

needs_flatbuffers = pytest.mark.skipif(
    importlib.util.find_spec("flatbuffers") is None,
    reason="flatbuffers is not installed; pip install -e '.[export]' && pytest tests/export",
)
SIZE = (32, 40)
SETTINGS = {"templates": ("a photo of {}", "{}"), "background": ("sky",), "short_side": 32}


@pytest.fixture(scope="session")
def tiny_dense(tiny_model):
    """Dense CLIP on tiny weights."""
    return load_segmenter("clip_dense", str(tiny_model), **SETTINGS)


@pytest.fixture(scope="session")
def exported_folder(tiny_dense, tmp_path_factory):
    """Its export; do not write into it."""
    folder = tmp_path_factory.mktemp("exports") / "dense"
    export.write(tiny_dense, folder, size=SIZE, labels=["zebra", "grass"])
    return folder


@pytest.fixture
def own_folder(exported_folder, tmp_path):
    """A copy of the export to damage."""
    return shutil.copytree(exported_folder, tmp_path / "copy")


def pictures(count, size, seed=0):
    """Draws pictures of blocks at the top left of their canvas, and says which pixels exist."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, *size, 3), np.uint8)
    valid = np.zeros((count, *size), bool)
    for i in range(count):
        h, w = size[0] - 5 * i, size[1] - 3 * i
        blocks = rng.integers(0, 256, (-(-h // 8), -(-w // 8), 3)).astype(np.uint8)
        images[i, :h, :w] = blocks.repeat(8, 0).repeat(8, 1)[:h, :w]
        valid[i, :h, :w] = True
    return images, valid


def live(segmenter, images, valid, names, background=None):
    """Label maps and scores as the library itself gives them (as in `methods.rounds`)."""
    text = segmenter.classes(names, background)
    masks = segmenter.segment(segmenter.params, images, text, valid)
    labels = np.asarray(to_label_map(masks, threshold=getattr(segmenter, "threshold", 0.5)))
    labels = np.where(labels > len(names), 0, labels)
    alive, scores = np.asarray(masks.valid), np.asarray(masks.scores)
    if scores.ndim == 3:
        scores = np.where(alive[..., None], scores, 0).max(axis=1)
        alive = np.stack([np.isin(1 + np.arange(len(names)), found) for found in labels])
        return labels, np.where(alive, scores[:, : len(names)], 0), alive
    return labels, scores[:, : len(names)], alive[:, : len(names)]

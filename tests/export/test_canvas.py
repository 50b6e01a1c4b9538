"""Pictures on the canvas of an export, and label maps back."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from openseg_jax.export.canvas import fit, read_image, restore
from openseg_jax.export.words import ExportError
from openseg_jax.inputs import images

FIT = {"rule": "fit", "short_side": 0, "filter": "bicubic"}


def test_small_pictures_stay_and_large_ones_shrink():
    small = np.full((10, 20, 3), 7, np.uint8)
    canvas, valid = fit(small, (32, 32), FIT)
    assert canvas.shape == (32, 32, 3) and (canvas[:10, :20] == 7).all()
    assert valid.sum() == 200 and valid[:10, :20].all() and not canvas[~valid].any()
    large = np.random.default_rng(0).integers(0, 256, (100, 50, 3)).astype(np.uint8)
    canvas, valid = fit(large, (32, 32), FIT)
    assert valid[:, 0].sum() == 32 and valid[0].sum() == 16
    np.testing.assert_array_equal(canvas[:32, :16], images.fit_long_side(large, 32))


def test_a_short_side_enlarges_within_the_canvas():
    rule = {**FIT, "short_side": 24}
    _, valid = fit(np.zeros((12, 16, 3), np.uint8), (32, 32), rule)
    assert (valid[:, 0].sum(), valid[0].sum()) == (24, 32)
    _, valid = fit(np.zeros((12, 48, 3), np.uint8), (32, 32), rule)
    assert (valid[:, 0].sum(), valid[0].sum()) == (8, 32)


def test_squash_fills_the_canvas():
    canvas, valid = fit(np.full((5, 9, 3), 3, np.uint8), (16, 8), {**FIT, "rule": "squash"})
    assert valid.all() and (canvas == 3).all()


def test_masks_go_with_their_picture():
    mask = np.zeros((64, 32), np.float32)
    mask[:32] = 1
    canvas, valid = fit(mask, (32, 32), FIT)
    assert canvas.shape == (32, 32) and (canvas[:15, :16] == 1).all() and not canvas[17:].any()
    assert valid.sum() == 32 * 16


def test_label_maps_come_back_as_in_the_library():
    labels = np.random.default_rng(0).integers(0, 4, (6, 7)).astype(np.int32)
    wanted = images.restore_labels(labels, (20, 30))
    np.testing.assert_array_equal(restore(labels, (20, 30)), wanted)
    assert restore(labels, (6, 7)) is labels


def test_pictures_are_read_upright_and_on_white(tmp_path):
    picture = Image.fromarray(np.zeros((4, 8, 3), np.uint8))
    exif = picture.getexif()
    exif[274] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (8, 4, 3)
    Image.fromarray(np.zeros((2, 2, 4), np.uint8)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png") == 255).all()


@pytest.mark.parametrize(
    "values",
    [
        np.arange(64).astype(np.uint16) * 1000, np.arange(64).astype(np.int32) * 1000,
        np.arange(64).astype(np.int32) - 30, np.linspace(0, 1, 64, dtype=np.float32),
        np.array([np.nan, -3, *range(62)], np.float32),
    ],
)  # fmt: skip
def test_deep_pictures_are_read_as_in_the_library(tmp_path, values):
    path = tmp_path / "deep.tif"
    Image.fromarray(values.reshape(8, 8)).save(path)
    wanted = images.read_image(path)
    assert wanted.min() == 0 and wanted.max() > 200 and len(np.unique(wanted)) > 40
    np.testing.assert_array_equal(read_image(path), wanted)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n broken"])
def test_what_is_no_picture_is_named(tmp_path, content):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"bad\.png"):
        read_image(path)

"""Palette, label PNGs and the pictures for people."""

import numpy as np
import pytest
from PIL import Image

from openseg_jax import viz
from openseg_jax.errors import UserError


def picture(height=60, width=90):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def halves(height=60, width=90):
    labels = np.zeros((height, width), np.int32)
    labels[:, width // 2 :] = 2
    return labels


def test_palette_is_fixed_distinct_and_starts_black():
    colours = viz.palette(255)
    assert colours.shape == (256, 3) and colours[0].tolist() == [0, 0, 0]
    assert len({tuple(c) for c in colours.tolist()}) == 256
    np.testing.assert_array_equal(viz.palette(20), colours[:21])
    np.testing.assert_array_equal(viz.palette(600)[256:511], colours[1:])


def test_first_colours_differ_for_colour_blind_eyes():
    views = viz._seen(viz.palette(24))
    for eye in views:
        apart = np.linalg.norm(eye[:, None] - eye[None], axis=-1)
        assert apart[~np.eye(25, dtype=bool)].min() > 0.06
    # The test can fail: neighbouring reds and greens are alike to a green-blind eye.
    bad = viz._seen(np.array([[163, 143, 0], [190, 130, 10]]))
    assert np.linalg.norm(bad[2, 0] - bad[2, 1]) < 0.06


def test_label_png_keeps_values_and_names(tmp_path):
    names = ["zebra", "grass, lawn", "Füßgänger 🦓"]
    viz.write_labels(tmp_path / "a.png", halves(), names)
    labels, found = viz.read_labels(tmp_path / "a.png")
    np.testing.assert_array_equal(labels, halves())
    assert found == names
    with Image.open(tmp_path / "a.png") as file:
        assert file.mode == "P"
        assert file.getpalette()[6:9] == viz.palette(3)[2].tolist()


def test_label_png_with_thousands_of_names_is_16_bit(tmp_path):
    labels = np.array([[0, 255, 256, 4999]])
    viz.write_labels(tmp_path / "a.png", labels, [f"n{i}" for i in range(5000)])
    back, names = viz.read_labels(tmp_path / "a.png")
    np.testing.assert_array_equal(back, labels)
    assert len(names) == 5000
    with pytest.raises(UserError, match="at most 65535"):
        viz.write_labels(tmp_path / "b.png", labels, ["x"] * 65536)
    assert not (tmp_path / "b.png").exists()


def test_png_of_others_is_refused(tmp_path):
    Image.new("P", (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="no class table"):
        viz.read_labels(tmp_path / "a.png")


def test_paint_changes_labelled_pixels_only():
    image, labels = picture(), halves()
    painted = viz.paint(image, labels)
    np.testing.assert_array_equal(painted[labels == 0], image[labels == 0])
    assert (painted[:, 50:] != image[:, 50:]).any()
    # Outlines have the pure colour.
    np.testing.assert_array_equal(painted[:, 45], np.tile(viz.palette(2)[2], (60, 1)))
    with pytest.raises(UserError, match="labels"):
        viz.paint(image, labels[:-1])


def test_boundaries():
    edge = viz.boundaries(halves())
    assert edge[:, 44:46].all() and edge.sum() == 120
    assert viz.boundaries(halves(), 2).sum() == 240
    assert not viz.boundaries(np.zeros((1, 1), int), 3).any()


def test_overlay_has_a_legend_and_shows_scores():
    image, labels = picture(300, 400), halves(300, 400)
    plain = viz.overlay(image, labels, ["zebra", "grass"])
    assert plain.shape[0] > 310 and plain.shape[1] == 400
    scored = viz.overlay(image, labels, ["zebra", "grass"], scores={"grass": 0.5})
    assert (plain[300:] != scored[300:]).any()


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (700, 3), (2500, 1800)])
def test_overlay_of_any_size(size):
    labels = np.ones(size, np.int64)
    out = viz.overlay(picture(*size), labels, ["a label " * 40])
    assert out.dtype == np.uint8 and min(out.shape[:2]) > 20
    assert max(out.shape[:2]) < 2300


def test_overlay_without_a_label_and_with_hundreds():
    empty = viz.overlay(picture(300, 300), np.zeros((300, 300), int), [])
    assert empty.shape[0] > 300
    many = (np.arange(90000) % 400).reshape(300, 300)
    names = [f"n{i}" for i in range(400)]
    assert viz.overlay(picture(300, 300), many, names).shape[0] < 1000
    assert viz._entries(many, names, {}, 36)[-1] == ("… and 363 more", None)
    assert len(viz._entries(many, names, {}, 36)) == 37


def test_grids():
    row = [picture(), picture(30, 30)]
    one = viz.grid([row], [["left", "right"]], height=100)
    assert one.shape[2] == 3 and one.shape[1] == 150 + 100 + 2 * 8
    table = viz.grid([row, row[:1]], height=50)
    assert table.shape[:2] == (2 * 58, 75 + 50 + 16)

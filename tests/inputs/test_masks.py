"""Masks in every format, and every way in which they are wrong."""

import json

import numpy as np
import pytest
from PIL import Image

from openseg_jax.errors import UserError
from openseg_jax.inputs.masks import check_masks, read_masks
from openseg_jax.ops import rle

SIZE = (6, 9)


def drawn():
    masks = np.zeros((3, *SIZE), bool)
    masks[0, :2], masks[1, 3:, 4:], masks[2, 4, :3] = True, True, True
    return masks


def label_map(masks, values, dtype):
    out = np.zeros(SIZE, dtype)
    for mask, value in zip(masks, values, strict=True):
        out[mask] = value
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_label_maps(tmp_path, dtype):
    values = [1, 7, 200] if dtype == np.uint8 else [3, 300, 40000]
    ignore = np.iinfo(dtype).max
    labels = label_map(drawn(), values, dtype)
    labels[2, 0] = ignore
    Image.fromarray(labels).save(tmp_path / "a.png")
    masks, names = read_masks(tmp_path / "a.png", SIZE)
    assert names == tuple(map(str, values))
    np.testing.assert_array_equal(masks, drawn())
    Image.fromarray(label_map(drawn()[:1], [ignore], dtype)).save(tmp_path / "b.png")
    masks, names = read_masks(tmp_path / "b.png", SIZE)
    np.testing.assert_array_equal(masks, drawn()[:1])


def test_palette_and_grey_written_as_rgb(tmp_path):
    labels = label_map(drawn(), [1, 2, 3], np.uint8)
    paletted = Image.fromarray(labels)
    paletted.putpalette([0, 0, 0, 250, 9, 9, 9, 250, 9, 9, 9, 250])
    paletted.save(tmp_path / "p.png")
    Image.fromarray(np.repeat(labels[..., None], 3, -1)).save(tmp_path / "g.png")
    for name in ("p.png", "g.png"):
        np.testing.assert_array_equal(read_masks(tmp_path / name, SIZE)[0], drawn())


def test_folders_are_sorted_as_people_count(tmp_path):
    for i in (0, 1, 2):
        Image.fromarray(drawn()[i]).save(tmp_path / f"mask{[10, 2, 1][i]}.png")
    masks, names = read_masks(tmp_path, SIZE)
    assert names == ("mask1", "mask2", "mask10")
    np.testing.assert_array_equal(masks, drawn()[::-1])


def test_arrays(tmp_path):
    soft = drawn() * np.float32(0.7)
    np.savez(tmp_path / "a.npz", masks=soft, other=1)
    np.savez(tmp_path / "b.npz", drawn().astype(np.uint8))
    np.save(tmp_path / "c.npy", label_map(drawn(), [1, 2, 3], np.int64))
    np.testing.assert_array_equal(read_masks(tmp_path / "a.npz", SIZE)[0], soft)
    for name in ("b.npz", "c.npy"):
        np.testing.assert_array_equal(read_masks(tmp_path / name, SIZE)[0], drawn())


def test_coco_codes(tmp_path):
    codes = [rle.encode(mask) for mask in drawn()]
    for data in (
        codes,
        {"masks": [{"label": "x", "segmentation": c} for c in codes]},
        {"annotations": [{"id": 5, "segmentation": c} for c in codes]},
    ):
        (tmp_path / "a.json").write_text(json.dumps(data))
        masks, names = read_masks(tmp_path / "a.json", SIZE)
        np.testing.assert_array_equal(masks, drawn())
        assert len(names) == 3
    plain = {"size": list(SIZE), "counts": [6 * 9 - 6, 6]}
    (tmp_path / "b.json").write_text(json.dumps([plain]))
    want = np.zeros(SIZE, bool)
    want[:, -1] = True
    np.testing.assert_array_equal(read_masks(tmp_path / "b.json", SIZE)[0][0], want)


def wrong(path, kind):
    """Writes a file of masks that is wrong in one way, and returns its path."""
    masks = drawn()
    if kind == "missing":
        return path / "no.png"
    if kind == "colours":
        Image.fromarray(np.arange(6 * 9 * 3, dtype=np.uint8).reshape(6, 9, 3)).save(path / "a.png")
        return path / "a.png"
    if kind == "empty map":
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(path / "a.png")
        return path / "a.png"
    if kind == "size":
        Image.fromarray(np.ones((5, 9), np.uint8)).save(path / "a.png")
        return path / "a.png"
    if kind in ("no picture", "unknown format", "no json", "no zip"):
        end = {"no picture": "png", "unknown format": "txt", "no json": "json", "no zip": "npz"}
        (path / f"a.{end[kind]}").write_text("{ nothing")
        return path / f"a.{end[kind]}"
    if kind == "empty folder":
        return path
    if kind == "bad file in folder":
        (path / "m1.png").write_text("nothing")
        return path
    if kind in ("polygons", "no masks", "other keys", "broken code"):
        code = rle.encode(masks[0])
        data = {
            "polygons": [{"segmentation": [[0, 0, 4, 4, 0, 4]]}], "no masks": [],
            "other keys": {"shapes": []}, "broken code": [{**code, "counts": code["counts"][:-1]}],
        }[kind]  # fmt: skip
        (path / "a.json").write_text(json.dumps(data))
        return path / "a.json"
    arrays = {
        "nan": np.where(masks, np.nan, 0.0), "logits": masks * 5.0, "flat": masks.reshape(-1),
        "strings": np.full((1, *SIZE), "x"), "none": masks[:0],
    }  # fmt: skip
    np.savez(path / "a.npz", arrays[kind])
    return path / "a.npz"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file or folder"),
        ("colours", "expected a palette or grey picture, got colours"),
        ("empty map", "no foreground"),
        ("size", "expected masks of the picture's size 9x6, got 9x5"),
        ("no picture", "not a picture"),
        ("unknown format", "unknown format; give PNG label map, NPZ"),
        ("no json", "cannot be read"),
        ("no zip", "cannot be read"),
        ("empty folder", "no masks in this folder"),
        ("bad file in folder", "m1.png: not a readable mask"),
        ("polygons", "polygons have to be"),
        ("no masks", "at least one mask, got none"),
        ("other keys", "got keys shapes"),
        ("broken code", "runs that fill"),
        ("nan", "mask 0 holds NaN"),
        ("logits", "mask 0 has 0 to 5"),
        ("flat", "expected masks .M H W., got an array"),
        ("strings", "expected numbers or booleans"),
        ("none", "at least one mask, got none"),
    ],
)
def test_wrong_masks_are_named(tmp_path, kind, message):
    with pytest.raises(UserError, match=message):
        read_masks(wrong(tmp_path, kind), SIZE)


def test_check_masks_keeps_booleans_and_soft_values():
    assert check_masks(drawn(), SIZE) is not None and check_masks(drawn(), SIZE).dtype == bool
    assert check_masks(drawn().astype(np.float64) / 2, SIZE).dtype == np.float32

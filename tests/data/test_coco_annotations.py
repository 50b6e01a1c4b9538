"""COCO's instances: polygons, run lengths, and files that are not what they should be."""

import json

import numpy as np
import pytest
from openseg_jax.data.prepare.coco_annotations import instance_mask, read_instances

from openseg_jax.errors import UserError
from openseg_jax.ops import rle

SQUARE = [1, 1, 4, 1, 4, 4, 1, 4]
OTHER = [3, 3, 6, 3, 6, 6, 3, 6]


def content(**changes):
    image = {"id": 7, "file_name": "000000000007.jpg", "height": 8, "width": 9}
    row = {"id": 70, "image_id": 7, "category_id": 1, "iscrowd": 0, "segmentation": [SQUARE]}
    return {"images": [image | changes.pop("image", {})],
            "annotations": [row | changes.pop("row", {})], "categories": []} | changes  # fmt: skip


def write(path, data):
    path.write_text(json.dumps(data))
    return path


def test_a_file_comes_back(tmp_path):
    pictures, annotations = read_instances(write(tmp_path / "a.json", content()))
    assert pictures[7]["height"] == 8 and annotations[0]["segmentation"] == [SQUARE]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "COCO instances"),
        ({"images": []}, "a file without 'annotations'"),
        (content(image={"id": "7"}), "'id'"),
        (content(image={"file_name": ".."}), "file_name"),
        (content(image={"height": 0}), "height"),
        (content(row={"category_id": None}), "category_id"),
        (content(row={"image_id": 8}), "annotation 70 is of picture 8"),
    ],
)
def test_other_files_are_refused(tmp_path, data, message):
    with pytest.raises(UserError, match=message):
        read_instances(write(tmp_path / "a.json", data))


def test_a_file_cut_short_is_named(tmp_path):
    path = write(tmp_path / "instances_val2017.json", content())
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match=r"instances_val2017\.json: expected a complete JSON"):
        read_instances(path)


def test_polygons_are_joined_and_doubles_kept():
    found = instance_mask({"id": 1, "segmentation": [SQUARE, OTHER]}, (8, 9))
    want = np.zeros((8, 9), int)
    want[1:4, 1:4] += 1
    want[3:6, 3:6] += 1
    np.testing.assert_array_equal(found.mask, want > 0)
    np.testing.assert_array_equal(found.twice, want == 2)
    assert instance_mask({"id": 1, "segmentation": [SQUARE]}, (8, 9)).twice is None
    with_line = instance_mask({"id": 1, "segmentation": [SQUARE, [0, 0, 8, 8]]}, (8, 9))
    assert with_line.mask.sum() == 9 and with_line.twice is None


@pytest.mark.parametrize("plain", [True, False])
def test_run_lengths(plain):
    mask = np.random.default_rng(0).random((8, 9)) < 0.5
    mask[0, 0] = False
    code = rle.encode(mask)
    if plain:
        flat = np.concatenate([[False], mask.ravel(order="F"), [not mask[-1, -1]]])
        edges = np.flatnonzero(flat[1:] != flat[:-1])
        code["counts"] = np.diff(np.concatenate([[0], edges])).tolist()
    np.testing.assert_array_equal(instance_mask({"segmentation": code}, (8, 9)).mask, mask)


@pytest.mark.parametrize(
    "outline",
    [
        {"size": [9, 8], "counts": [72]},
        {"size": [8, 9], "counts": [71]},
        {"size": [8, 9], "counts": [-1, 73]},
        {"size": [8, 9], "counts": "zzzz"},
        {"size": [8, 9], "counts": None},
        {"counts": [72]},
        [[1, 2, 3]],
        [None],
        "text",
        None,
    ],
)
def test_damaged_outlines_name_the_annotation(outline):
    with pytest.raises(UserError, match="annotation 31"):
        instance_mask({"id": 31, "segmentation": outline}, (8, 9))

"""From small archives in the official layout to labels: prepare, verify, open, read."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from openseg_jax.data.prepare.base import RECIPES, recipe
from openseg_jax.data.prepare.run import prepare
from openseg_jax.data.prepare.verify import verify
from PIL import Image

from openseg_jax.errors import UserError
from openseg_jax.inputs.data_sets import data_set
from openseg_jax.inputs.labelled_set import FORMAT, open_set
from tests.data import label_archives
from tests.inputs.layouts import write_layout


def check(name, root, truth):
    found = open_set(name, root)
    assert found.layout == "prepared" and [item.name for item in found.items] == sorted(truth)
    for index, item in enumerate(found.items):
        image, labels = found.read(index)
        np.testing.assert_array_equal(labels, truth[item.name])
        assert image.shape == (*labels.shape, 3)
    return found


@pytest.mark.parametrize("name", label_archives.WRITERS)
def test_from_archives_to_labels(name, tmp_path):
    truth = label_archives.WRITERS[name](tmp_path)
    done = prepare(name, tmp_path, workers=1)
    assert done.count == done.made - done.skipped == len(truth) and not done.was_there
    assert done.skipped == (1 if name == "coco_stuff" else 0)
    found = check(name, tmp_path, truth)
    assert found.classes == data_set(name).classes

    report = verify(name, tmp_path, workers=1)
    assert report.layout == "prepared" and report.count == len(truth)
    (problem,) = report.problems  # the only one: there are fewer pictures than are published
    assert f"{len(truth)} items, but results are published on {data_set(name).counts[0]}" in problem
    values = np.concatenate([labels.ravel() for labels in truth.values()])
    want = np.bincount(values[values >= 0], minlength=len(found.classes))
    np.testing.assert_array_equal(report.pixels, want)
    assert report.not_labelled == np.count_nonzero(values < 0)
    shown = [sum(bool((t == c).any()) for t in truth.values()) for c in range(len(want))]
    np.testing.assert_array_equal(report.pictures, shown)

    again = prepare(name, tmp_path)
    assert again.was_there and again.count == len(truth)


def test_what_is_written(tmp_path):
    truth = label_archives.voc(tmp_path)
    folder = prepare("voc", tmp_path, workers=1).folder
    assert sorted(path.name for path in folder.iterdir()) == [
        "dataset.json",
        "items.jsonl",
        "labels",
    ]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["voc"]
    head = json.loads((folder / "dataset.json").read_text())
    items = (folder / "items.jsonl").read_bytes()
    assert head["format"] == FORMAT and head["count"] == len(truth) and head["background"]
    assert head["sha256"] == hashlib.sha256(items).hexdigest()
    assert head["classes"][0] == "background" and len(head["histogram"]) == 21
    rows = [json.loads(line) for line in items.splitlines()]
    for row in rows:
        data = (folder / row["labels"]).read_bytes()
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert (row["height"], row["width"]) == truth[row["name"]].shape
        assert (tmp_path / row["image"]).is_file() and set(row) == {
            "name", "image", "labels", "height", "width", "sha256",
        }  # fmt: skip
        with Image.open(folder / row["labels"]) as picture:
            assert picture.mode == "L"
    # Only what is needed was unpacked.
    unpacked = tmp_path / "unpacked" / "VOCtrainval_11-May-2012" / "VOCdevkit" / "VOC2012"
    assert not (unpacked / "Annotations").exists()


def test_the_root_may_move(tmp_path):
    truth = label_archives.ade(tmp_path / "..")
    (tmp_path / ".." / "ADEChallengeData2016.zip").rename(tmp_path / "ADEChallengeData2016.zip")
    prepare("ade", tmp_path, workers=1)
    shutil.move(tmp_path, tmp_path.with_name("moved"))
    check("ade", tmp_path.with_name("moved"), truth)


@pytest.mark.parametrize("name, index", [("ade", 0), ("voc", 2), ("coco_stuff", 1), ("context", 0)])
def test_folders_that_other_projects_made_will_do(name, index, tmp_path):
    facts = data_set(name)
    written = write_layout(facts, facts.layouts[index], tmp_path)
    prepare(name, tmp_path, workers=1)
    check(name, tmp_path, written.truth)


def test_folders_without_background_are_not_prepared(tmp_path):
    facts = data_set("voc")
    layout = next(one for one in facts.layouts if one.lacks_background)
    write_layout(facts, layout, tmp_path)
    with pytest.raises(UserError, match="holds no PASCAL VOC 2012"):
        prepare("voc", tmp_path, workers=1)
    report = verify("voc", tmp_path, workers=1)
    assert any("background is not labelled" in note for note in report.notes)


def test_every_recipe_has_its_facts():
    for name in RECIPES:
        found = recipe(name)
        assert found.name == name and found.source and found.licence and found.get
        assert found.counts or found.splits
        assert all(archive.pattern for archive in found.archives)


def test_context_paints_masks_in_the_order_of_the_file(tmp_path):
    truth = label_archives.context(tmp_path)
    path = tmp_path / "trainval_merged.json"
    data = json.loads(path.read_text())
    data["annos_segmentation"].reverse()
    path.write_text(json.dumps(data))
    prepare("context", tmp_path, workers=1)
    found = open_set("context", tmp_path)
    assert any((found.read(i)[1] != truth[item.name]).any() for i, item in enumerate(found.items))


def change(root, key, row, **values):
    path = root / "trainval_merged.json"
    data = json.loads(path.read_text())
    data[key][row].update(values)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    "spoil, message",
    [
        (
            lambda root: change(root, "annos_segmentation", 0, category_id=460),
            "460; the file",
        ),
        (
            lambda root: change(
                root, "annos_segmentation", 0, segmentation={"size": [3, 4], "counts": "<"}
            ),
            "a mask of 2008_.*expected 15x1.*got 4x3",
        ),
        (
            lambda root: (root / "trainval_merged.json").write_text(
                (root / "trainval_merged.json").read_text()[:-900]
            ),
            "trainval_merged.json: is damaged or cut short",
        ),
        (
            lambda root: (root / "trainval_merged.json").write_text('{"images": [{"a": 1}]}'),
            "rows without 'phase'; it is another file",
        ),
        (
            lambda root: (root / "trainval_merged.json").write_text('{"images": []}'),
            'pictures of the phase "val"',
        ),
        (
            lambda root: (root / "VOCtrainval_03-May-2010.tar").unlink(),
            "but no VOCdevkit/VOC2010/JPEGImages",
        ),
        (
            lambda root: change(root, "images", 0, file_name="2009_000001.jpg"),
            r"2009_000001.jpg: the picture is missing \(1 of 3",
        ),
    ],
)
def test_context_bad_input(spoil, message, tmp_path):
    label_archives.context(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        prepare("context", tmp_path, workers=1)
    assert not list((tmp_path / "prepared").iterdir())


def test_other_categories_of_context_are_background(tmp_path):
    truth = label_archives.context(tmp_path, 1)
    change(tmp_path, "annos_segmentation", 0, category_id=3)
    prepare("context", tmp_path, workers=1)
    labels = open_set("context", tmp_path).read(0)[1]
    assert set(np.unique(labels[labels != truth["2008_000000"]])) <= {0}


def test_a_picture_of_context_without_masks_is_left_out(tmp_path):
    truth = label_archives.context(tmp_path)
    path = tmp_path / "trainval_merged.json"
    data = json.loads(path.read_text())
    gone = data["images"][1]["image_id"]
    rows = data["annos_segmentation"]
    data["annos_segmentation"] = [row for row in rows if row["image_id"] != gone]
    path.write_text(json.dumps(data))
    prepare("context", tmp_path, workers=1)
    truth.pop("2008_000001")
    check("context", tmp_path, truth)

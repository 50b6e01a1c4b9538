"""RefCOCO, RefCOCO+ and RefCOCOg from small archives in the official layout."""

import json
import os
import pickle

import numpy as np
import pytest
from openseg_jax.data.prepare.referring_rows import read_refs
from openseg_jax.data.prepare.run import prepare
from openseg_jax.data.prepare.verify import verify

from openseg_jax.errors import UserError
from openseg_jax.inputs.referring_set import open_referring
from tests.data import official

SIZES = {7: (20, 30), 8: (16, 12)}
BOX, BESIDE, OVER = ([x, y, x + 6, y, x + 6, y + 5, x, y + 5] for x, y in ((2, 3), (12, 8), (5, 5)))


def rectangle(size, x, y):
    mask = np.zeros(size, int)
    mask[y : y + 5, x : x + 6] = 1
    return mask


def row(number, picture, annotation, split, *texts, **changes):
    sentences = [
        {"tokens": t.lower().split(), "raw": t, "sent_id": 10 * number + i, "sent": t.lower()}
        for i, t in enumerate(texts)
    ]
    return {
        "ref_id": number, "image_id": picture, "ann_id": annotation, "category_id": 1,
        "split": split, "sentences": sentences, "sent_ids": [s["sent_id"] for s in sentences],
        "file_name": f"COCO_train2014_{picture:012d}_{number}.jpg", **changes,
    }  # fmt: skip


ROWS = [
    row(1, 7, 70, "val", "The LEFT one", 'man "in/at" door'),
    row(2, 7, 71, "testA", "two parts"),
    row(3, 8, 80, "val", "crowd  of\tpeople", "crowd of people"),
    row(4, 8, 80, "train", "again"),
]


def annotations():
    flat = np.zeros(16 * 12, bool)
    flat[5:40] = True
    return [
        {"id": 70, "image_id": 7, "category_id": 1, "iscrowd": 0, "segmentation": [BOX, BESIDE]},
        {"id": 71, "image_id": 7, "category_id": 1, "iscrowd": 0, "segmentation": [BOX, OVER]},
        {"id": 80, "image_id": 8, "category_id": 1, "iscrowd": 1,
         "segmentation": {"size": [16, 12], "counts": [5, 35, 152]}},
    ]  # fmt: skip


def write(root, name="refcoco", rows=ROWS, partition="unc", sizes=SIZES, more=(), outlines=None):
    pictures = [
        {"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "height": h, "width": w}
        for i, (h, w) in SIZES.items()
    ]
    data = rows if isinstance(rows, bytes) else official.refs(rows)
    official.write_zip(
        root / f"{name}.zip",
        {
            f"{name}/instances.json": official.instances(pictures, outlines or annotations()),
            f"{name}/refs({partition}).p": data, **dict(more),
        },
    )  # fmt: skip
    images = {
        f"train2014/COCO_train2014_{i:012d}.jpg": official.picture(size, i)
        for i, size in sizes.items()
    }
    official.write_zip(root / "train2014.zip", images)


@pytest.mark.parametrize("name", ["refcoco", "refcoco+"])
def test_prepare_open_read(tmp_path, name):
    write(tmp_path, name)
    done = prepare(name, tmp_path, workers=1)
    assert done.count == done.made == 4
    val = open_referring(name, "val", tmp_path)
    assert [item.name for item in val.items] == ["7_1", "8_3"]
    assert val.facts["count"] == 2 and val.facts["published"][0] in (3811, 3805)
    first = val.read(0)
    assert first.texts == ("The LEFT one", 'man "in/at" door') and first.twice is None
    assert first.image.shape == (20, 30, 3)
    want = rectangle((20, 30), 2, 3) + rectangle((20, 30), 12, 8)
    np.testing.assert_array_equal(first.mask, want > 0)
    second = val.read(1)
    want = np.zeros(16 * 12, bool)
    want[5:40] = True
    np.testing.assert_array_equal(second.mask, want.reshape(12, 16).T)
    assert second.texts == ("crowd of people", "crowd of people")  # each one was asked
    both = open_referring(name, "testA", tmp_path).read(0)
    want = rectangle((20, 30), 2, 3) + rectangle((20, 30), 5, 5)
    np.testing.assert_array_equal(both.mask, want > 0)
    np.testing.assert_array_equal(both.twice, want == 2)
    assert sorted(p.name for p in done.folder.iterdir()) == ["dataset.json", "items.jsonl"]
    head = json.loads((done.folder / "dataset.json").read_text())
    assert {s: (v["count"], v["pictures"], v["texts"]) for s, v in head["splits"].items()} == {
        "val": (2, 2, 4), "testA": (1, 1, 1), "train": (1, 1, 1),
    }  # fmt: skip


def test_verifying_compares_each_split_with_its_published_number(tmp_path):
    write(tmp_path)
    prepare("refcoco", tmp_path, workers=1)
    report = verify("refcoco", tmp_path, workers=1)
    assert report.count == 4 and report.layout == "referring"
    assert report.notes[0].startswith("val: 2 objects in 2 pictures, 4 expressions")
    wanted = {"train": (1, 42404), "val": (2, 3811), "testA": (1, 1975)}
    assert len(report.problems) == len(wanted)
    for split, (count, published) in wanted.items():
        text = f"{split}: {count} items, but results are published on {published}"
        assert any(text in problem for problem in report.problems)
    (tmp_path / "unpacked/train2014/train2014/COCO_train2014_000000000007.jpg").unlink()
    problems = verify("refcoco", tmp_path, workers=1).problems
    assert sum("000000000007.jpg: the picture is missing" in text for text in problems) == 2


def test_a_limit_leaves_training_out_first(tmp_path):
    write(tmp_path, rows=ROWS[::-1])
    prepare("refcoco", tmp_path, workers=1, limit=3)
    assert [len(open_referring("refcoco", s, tmp_path)) for s in ("val", "testA")] == [2, 1]
    with pytest.raises(UserError, match="split of refcoco"):
        open_referring("refcoco", "train", tmp_path)


def test_refcocog_has_both_partitions(tmp_path):
    google = official.refs([row(1, 7, 71, "val", "by Google"), row(5, 8, 80, "train", "x")])
    write(tmp_path, "refcocog", partition="umd", more={"refcocog/refs(google).p": google})
    assert prepare("refcocog", tmp_path, workers=1).count == 6
    found = open_referring("refcocog", "google_val", tmp_path)
    assert [item.name for item in found.items] == ["google_7_1"]
    assert found.read(0).texts == ("by Google",) and found.facts["published"] == [5000]
    assert len(open_referring("refcocog", "val", tmp_path)) == 2


def test_the_sets_do_not_take_each_others_files(tmp_path):
    write(tmp_path, "refcoco")
    with pytest.raises(UserError, match=r"holds no refcoco\+/refs\(unc\)\.p"):
        prepare("refcoco+", tmp_path, workers=1)


def test_opening(tmp_path):
    with pytest.raises(UserError, match="openseg data prepare refcoco --root"):
        open_referring("refcoco", "val", tmp_path)
    with pytest.raises(UserError, match="did you mean 'refcocog'"):
        open_referring("refcocoG", "val", tmp_path)
    write(tmp_path)
    folder = prepare("refcoco", tmp_path, workers=1).folder
    with pytest.raises(UserError, match="did you mean 'testA'"):
        open_referring("refcoco", "testa", tmp_path)
    assert prepare("refcoco", tmp_path, workers=1).was_there
    with (folder / "items.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(UserError, match="is not the list that was written"):
        open_referring("refcoco", "val", tmp_path)


def test_a_picture_of_another_size_is_found_at_reading_too(tmp_path):
    write(tmp_path)
    prepare("refcoco", tmp_path, workers=1)
    found = open_referring("refcoco", "val", tmp_path)
    found.items[0].image.write_bytes(official.picture((20, 31), 0))
    with pytest.raises(UserError, match="mask of 7_1: expected the size of its picture"):
        found.read(0)
    found.items[0].image.unlink()
    with pytest.raises(UserError, match="no such file"):
        found.read(0)


class Run:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_is_refused_and_never_run(tmp_path):
    mark = tmp_path / "mark"
    write(tmp_path, rows=pickle.dumps([*ROWS, {"x": Run(mark)}], 2))
    with pytest.raises(UserError, match=r"refs\(unc\)\.p: refused: .*mkdir"):
        prepare("refcoco", tmp_path, workers=1)
    assert not mark.exists() and not list(tmp_path.glob("prepared/*"))
    assert not list(tmp_path.glob("prepared/.*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": official.refs(ROWS)[:-40]}, "expected a complete pickle"),
        ({"rows": [{**ROWS[0], "ann_id": 99}]}, "reference 1 is to annotation 99 of picture 7"),
        ({"rows": [{**ROWS[0], "image_id": 8}]}, "reference 1 is to annotation 70 of picture 8"),
        ({"rows": [{**ROWS[0], "sentences": []}]}, "reference 0 without 'sentences'"),
        ({"rows": [ROWS[0], {**ROWS[1], "split": "../x"}]}, "reference 1 without 'split'"),
        ({"rows": [ROWS[0], ROWS[0]]}, "a ref_id twice"),
        ({"rows": []}, "holds no reference"),
        ({"sizes": {7: (20, 30)}}, r"000000000008\.jpg: the picture is missing"),
        ({"sizes": {**SIZES, 8: (12, 16)}}, r"000000000008\.jpg: expected the size"),
        ({"outlines": [a | {"segmentation": [[1, 2, 3]]} for a in annotations()]}, "annotation 70"),
    ],
)  # fmt: skip
def test_bad_input(tmp_path, change, message):
    write(tmp_path, **change)
    with pytest.raises(UserError, match=message):
        prepare("refcoco", tmp_path, workers=1)
    assert not list(tmp_path.glob("prepared/*")) and not list(tmp_path.glob("prepared/.*"))


def test_references_without_raw_text_use_the_cleaned_one(tmp_path):
    path = tmp_path / "refs(unc).p"
    sentences = [{"sent": "left man", "sent_id": 1}, {"raw": "Zebra", "sent": "zebra"}]
    path.write_bytes(official.refs([{**ROWS[0], "sentences": sentences}]))
    assert read_refs(path)[0].texts == ("left man", "Zebra")

"""ADE-847, PC-459 and COCO-Object from small archives in the official layout.

The expected labels are computed here from the data sets' descriptions alone.
"""

import json

import numpy as np
import pytest
from openseg_jax.data.prepare.run import prepare
from openseg_jax.data.prepare.verify import verify
from PIL import Image

from openseg_jax.errors import UserError
from openseg_jax.inputs.data_sets import data_set
from openseg_jax.inputs.labelled_set import open_set
from tests.data import official

ADE = ("ADE_val_00000001", "ADE_val_00000002")


def assert_verified(name, root, count):
    """Nothing is wrong but the number of pictures, which is not the published one."""
    report = verify(name, root, workers=1)
    (problem,) = report.problems
    assert report.count == count
    assert f"{count} items, but results are published on {data_set(name).counts[0]}" in problem


def ade_numbers(seed, size):
    """Class numbers of which some are evaluated and some are not."""
    raw = data_set("ade847").vocabulary.raw
    rng = np.random.default_rng(seed)
    known = rng.choice(raw, 30)
    numbers = rng.choice(np.concatenate([known, [0, 1, 2, 3688]]), size)
    return numbers.astype(np.int64)


def write_ade(root, sizes=((40, 60), (30, 45)), spoil=None):
    numbers = {name: ade_numbers(i, sizes[i]) for i, name in enumerate(ADE)}
    images = {
        name: np.random.default_rng(9).integers(0, 256, (*n.shape, 3), np.uint8)
        for name, n in numbers.items()
    }
    files = dict(official.ade_full(numbers, images))
    if spoil:
        spoil(files)
    official.write_zip(root / "ADE20K_2021_17_01.zip", files)
    return numbers


def test_ade847(tmp_path):
    numbers = write_ade(tmp_path)
    done = prepare("ade847", tmp_path, workers=1)
    assert done.count == done.made == 2
    found = open_set("ade847", tmp_path)
    assert [item.name for item in found.items] == list(ADE) and found.layout == "prepared"
    # The vocabulary's file, straight from its columns: id, class number, text.
    raw = list(data_set("ade847").vocabulary.raw)
    for index, name in enumerate(ADE):
        image, labels = found.read(index)
        want = np.array([[raw.index(n) if n in raw else -1 for n in row] for row in numbers[name]])
        assert len(np.unique(want)) > 20 and (want == -1).any()
        np.testing.assert_array_equal(labels, want)
        assert image.shape[:2] == want.shape
    head = json.loads((done.folder / "dataset.json").read_text())
    assert head["ignore"] == 65535 and len(head["classes"]) == 847
    values = np.concatenate([values.ravel() for values in numbers.values()])
    assert head["histogram"] == [int((values == number).sum()) for number in raw]
    assert_verified("ade847", tmp_path, 2)
    (done.folder / "images" / f"{ADE[0]}.jpg").unlink()
    assert any(f"{ADE[0]}.jpg" in p for p in verify("ade847", tmp_path, workers=1).problems)


def test_ade847_names_a_picture_that_is_cut_short(tmp_path):
    def cut(files):
        (name,) = (name for name in files if name.endswith(f"{ADE[1]}.jpg"))
        files[name] = files[name][:-200]

    write_ade(tmp_path, spoil=cut)
    with pytest.raises(UserError, match=rf"{ADE[1]}.jpg: cannot be read as a picture"):
        prepare("ade847", tmp_path, workers=1)


def test_ade847_names_both_pictures_of_one_name(tmp_path):
    def copy(files):
        for name in [n for n in files if n.endswith((f"{ADE[0]}.jpg", f"{ADE[0]}_seg.png"))]:
            files[name.replace("/street/", "/alley/")] = files[name]

    write_ade(tmp_path, spoil=copy)
    with pytest.raises(UserError, match=rf"street/{ADE[0]}.jpg: .*twice, here and at .*alley/"):
        prepare("ade847", tmp_path, workers=1)


def test_ade847_shrinks_what_is_larger(tmp_path):
    numbers = write_ade(tmp_path, sizes=((600, 520), (514, 700)))
    prepare("ade847", tmp_path, workers=1)
    found = open_set("ade847", tmp_path)
    raw = list(data_set("ade847").vocabulary.raw)
    for index, size in enumerate(((591, 512), (512, 697))):
        image, labels = found.read(index)
        assert image.shape == (*size, 3) and labels.shape == size
        before = numbers[ADE[index]]
        rows = np.arange(size[0]) * before.shape[0] // size[0]
        columns = np.arange(size[1]) * before.shape[1] // size[1]
        few = before[rows][:, columns]
        lookup = {n: raw.index(n) if n in raw else -1 for n in np.unique(few).tolist()}
        np.testing.assert_array_equal(labels, np.vectorize(lookup.get)(few))


def test_ade847_resumes_with_its_pictures(tmp_path):
    write_ade(tmp_path)
    done = prepare("ade847", tmp_path, workers=1, limit=1)
    assert (done.count, sorted(p.name for p in (done.folder / "images").iterdir())) == (
        1, [f"{ADE[0]}.jpg"],
    )  # fmt: skip
    full = prepare("ade847", tmp_path, workers=1)
    assert full.count == 2 and len(list((full.folder / "images").iterdir())) == 2


def test_ade847_makes_a_picture_again_that_a_stopped_run_lost(tmp_path):
    write_ade(tmp_path)

    def stop(what, share):
        if what.startswith("preparing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("ade847", tmp_path, workers=1, tell=stop)
    images = tmp_path / "prepared/.ade847.partial/images"
    (images / f"{ADE[1]}.jpg").unlink()
    (images / "other.jpg").write_bytes(b"of another run")
    done = prepare("ade847", tmp_path, workers=1)
    assert (done.count, done.made) == (2, 1)
    assert sorted(p.stem for p in (done.folder / "images").iterdir()) == list(ADE)


def recolour(files):
    name = next(n for n in files if n.endswith("_seg.png"))
    files[name] = official.encoded(np.full((40, 60, 3), 255, np.uint8), "PNG")


def other_size(files):
    name = next(n for n in files if n.endswith("_seg.png"))
    files[name] = official.encoded(np.zeros((41, 60, 3), np.uint8), "PNG")


def cut(files):
    name = next(n for n in files if n.endswith("_seg.png"))
    files[name] = files[name][:60]


def no_picture(files):
    del files[next(n for n in files if n.endswith(f"{ADE[1]}.jpg"))]


def no_colours(files):
    for name in [n for n in files if n.endswith("_seg.png")]:
        del files[name]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (recolour, r"ADE_val_00000001_seg\.png.*class numbers up to 3688"),
        (other_size, r"ADE_val_00000001_seg\.png.*size of its picture, 60x40, got 60x41"),
        (cut, r"ADE_val_00000001_seg\.png"),
        (no_picture, r"ADE_val_00000002\.jpg: the file is missing"),
        (no_colours, "ADE20K_2021_17_01"),
    ],
)
def test_ade847_bad_input(tmp_path, spoil, message):
    write_ade(tmp_path, spoil=spoil)
    with pytest.raises(UserError, match=message):
        prepare("ade847", tmp_path, workers=1)
    assert not list((tmp_path / "prepared").glob("*")) and not list(tmp_path.glob("prepared/.*"))


SIZES = {"2008_000002": (13, 17), "2008_000003": (9, 20), "2008_000007": (6, 6)}
VAL = ["2008_000007", "2008_000002"]


def write_context(root, values=None, listed=VAL, sizes=SIZES):
    rng = np.random.default_rng(0)
    if values is None:
        values = {n: rng.integers(0, 460, size) for n, size in SIZES.items()}
        for labels in values.values():
            labels.flat[:3] = 0, 1, 459
    official.write_tar(root / "VOCtrainval_03-May-2010.tar", official.voc2010(sizes))
    official.write_tar(root / "trainval.tar.gz", official.label_mats(values))
    pictures = [
        {"image_id": i, "file_name": f"{n}.jpg", "height": h, "width": w,
         "phase": "val" if n in listed else "train"}
        for i, (n, (h, w)) in enumerate(SIZES.items())
    ]  # fmt: skip
    masks = [
        {"image_id": i, "category_id": 2, "segmentation": {"size": [h, w], "counts": [h * w]}}
        for i, (h, w) in enumerate(SIZES.values())
    ]
    content = {"images": pictures, "annos_segmentation": masks}
    (root / "trainval_merged.json").write_text(json.dumps(content))
    return values


def test_context459(tmp_path):
    values = write_context(tmp_path)
    assert prepare("context459", tmp_path, workers=1).count == 2
    found = open_set("context459", tmp_path)
    assert [item.name for item in found.items] == sorted(VAL)
    for index, name in enumerate(sorted(VAL)):
        image, labels = found.read(index)
        want = np.array([[v - 1 if v else -1 for v in row] for row in values[name].tolist()])
        np.testing.assert_array_equal(labels, want)
        assert image.shape[:2] == want.shape
    assert_verified("context459", tmp_path, 2)
    stored = np.asarray(Image.open(found.items[0].labels))
    assert stored.dtype == np.uint16 and stored.flat[:3].tolist() == [65535, 0, 458]


def test_context459_takes_the_list_of_mmsegmentation(tmp_path):
    write_context(tmp_path)
    (tmp_path / "trainval_merged.json").unlink()
    with pytest.raises(UserError, match="trainval_merged"):
        prepare("context459", tmp_path, workers=1)
    path = tmp_path / "VOCdevkit/VOC2010/ImageSets/SegmentationContext/val.txt"
    path.parent.mkdir(parents=True)
    path.write_text("2008_000003\n")
    assert prepare("context459", tmp_path, workers=1).count == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": {n: np.full(s, 460) for n, s in SIZES.items()}}, "labels from 0 to 459"),
        ({"sizes": {**SIZES, "2008_000007": (6, 7)}}, r"2008_000007\.jpg: expected the size"),
        ({"sizes": {"2008_000002": (13, 17)}}, r"2008_000007\.jpg: the picture is missing"),
        ({"values": {"2008_000002": np.ones((13, 17))}}, r"2008_000007\.mat: the file is missing"),
        ({"listed": []}, "pictures of the phase"),
    ],
)
def test_context459_bad_input(tmp_path, change, message):
    write_context(tmp_path, **change)
    with pytest.raises(UserError, match=message):
        prepare("context459", tmp_path, workers=1)
    assert not list((tmp_path / "prepared").glob("*")) and not list(tmp_path.glob("prepared/.*"))


def test_context459_names_a_file_cut_short(tmp_path):
    values = write_context(tmp_path)
    files = dict(official.label_mats(values))
    files["trainval/2008_000002.mat"] = files["trainval/2008_000002.mat"][:-30]
    official.write_tar(tmp_path / "trainval.tar.gz", files)
    with pytest.raises(UserError, match=r"2008_000002\.mat: expected a complete MATLAB file"):
        prepare("context459", tmp_path, workers=1)


def box(y, x, h, w):
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def coco(**changes):
    pictures = [
        {"id": 9, "file_name": "000000000009.jpg", "height": 20, "width": 30},
        {"id": 4, "file_name": "000000000004.jpg", "height": 12, "width": 10},
    ]
    crowd = np.zeros((20, 30), bool)
    crowd[:, :12] = True
    flat = crowd.ravel(order="F")
    runs = [0, int(flat.sum()), int((~flat).sum())]
    annotations = [
        {"id": 3, "image_id": 9, "category_id": 90, "iscrowd": 1,
         "segmentation": {"size": [20, 30], "counts": runs}},
        {"id": 1, "image_id": 9, "category_id": 1, "iscrowd": 0,
         "segmentation": [box(2, 4, 8, 10), box(12, 20, 4, 6)]},
        {"id": 2, "image_id": 9, "category_id": 13, "iscrowd": 0,
         "segmentation": [box(5, 8, 9, 9)]},
    ]  # fmt: skip
    return changes.get("pictures", pictures), annotations + changes.get("more", [])


def drawn():
    """Labels of picture 9."""
    want = np.zeros((20, 30), int)
    want[:, :12] = 80  # toothbrush, the crowd: under everything else although first in the file
    want[5:14, 8:17] = 12  # stop sign, category 13
    want[2:10, 4:14] = 1  # person, before the stop sign in the file
    want[12:16, 20:26] = 1
    return want


def write_coco(root, content, sizes=((20, 30), (12, 10))):
    files = {
        f"val2017/00000000000{i}.jpg": official.picture(size, i)
        for i, size in zip((9, 4), sizes, strict=True)
    }
    official.write_zip(root / "val2017.zip", files)
    official.write_zip(
        root / "annotations_trainval2017.zip",
        {"annotations/instances_val2017.json": official.instances(*content),
         "annotations/captions_val2017.json": b"not read"},
    )  # fmt: skip


def test_coco_object(tmp_path):
    write_coco(tmp_path, coco())
    assert prepare("coco_object", tmp_path, workers=1).count == 2
    found = open_set("coco_object", tmp_path)
    assert found.background and found.classes[0] == "background" and len(found.classes) == 81
    assert [item.name for item in found.items] == ["000000000004", "000000000009"]
    assert not found.read(0)[1].any()  # a picture without instances is all background
    np.testing.assert_array_equal(found.read(1)[1], drawn())
    assert found.classes[12] == "stop sign" and found.classes[80] == "toothbrush"
    assert_verified("coco_object", tmp_path, 2)
    assert found.facts["source"].endswith("instances in file order, the first one wins")


@pytest.mark.parametrize(
    ("content", "sizes", "message"),
    [
        (coco(more=[{"id": 7, "image_id": 9, "category_id": 12, "segmentation": []}]),
         ((20, 30), (12, 10)), "category 12 of annotation 7"),
        (coco(more=[{"id": 7, "image_id": 9, "category_id": 1, "segmentation": [[1, 2, 3]]}]),
         ((20, 30), (12, 10)), "annotation 7"),
        (coco(), ((20, 31), (12, 10)), r"000000000009\.jpg: expected the size"),
        (([], []), ((20, 30), (12, 10)), "the split is empty"),
    ],
)  # fmt: skip
def test_coco_object_bad_input(tmp_path, content, sizes, message):
    write_coco(tmp_path, content, sizes)
    with pytest.raises(UserError, match=message):
        prepare("coco_object", tmp_path, workers=1)
    assert not list((tmp_path / "prepared").glob("*")) and not list(tmp_path.glob("prepared/.*"))


def test_coco_object_is_read_from_coco_stuff_as_by_groupvit(tmp_path):
    write_coco(tmp_path, coco())
    values = np.random.default_rng(0).choice([0, 12, 89, 91, 181, 255], (20, 30)).astype(np.uint8)
    files = {
        f"val2017/{name}.png": official.encoded(v, "PNG")
        for name, v in (("000000000009", values), ("000000000004", values[:12, :10]))
    }
    official.write_zip(tmp_path / "stuffthingmaps_trainval2017.zip", files)
    prepare("coco_stuff", tmp_path, workers=1)  # unpacks it, so that it can be read as it lies
    found = open_set("coco_object", tmp_path)
    # Things are category - 1 there: person 0, stop sign 12, toothbrush 89; all else is background.
    want = np.vectorize({0: 1, 12: 12, 89: 80, 91: 0, 181: 0, 255: 0}.get)(values)
    assert found.layout == "official"
    np.testing.assert_array_equal(found.read(1)[1], want)
    prepare("coco_object", tmp_path, workers=1)
    found = open_set("coco_object", tmp_path)
    assert found.layout == "prepared" and "COCO-Stuff's maps" in found.facts["source"]
    np.testing.assert_array_equal(found.read(1)[1], want)


def test_coco_object_says_what_is_missing(tmp_path):
    write_coco(tmp_path, coco())
    (tmp_path / "annotations_trainval2017.zip").unlink()
    with pytest.raises(UserError, match=r"holds no annotations/instances_val2017\.json"):
        prepare("coco_object", tmp_path, workers=1)

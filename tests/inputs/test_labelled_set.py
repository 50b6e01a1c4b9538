"""Data sets for evaluation: every known layout, a user's own, and what is wrong with them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from openseg_jax.errors import UserError
from openseg_jax.inputs.augment import IGNORE
from openseg_jax.inputs.data_sets import DATA_SETS, UNKNOWN, data_set
from openseg_jax.inputs.labelled_set import open_folder, open_set
from tests.inputs.layouts import picture, save_labels, write_layout

LAYOUTS = [(name, i) for name, found in DATA_SETS.items() for i in range(len(found.layouts))]


@pytest.mark.parametrize("name, index", LAYOUTS)
def test_every_layout_is_read_as_it_lies(name, index, tmp_path):
    facts = data_set(name)
    layout = facts.layouts[index]
    written = write_layout(facts, layout, tmp_path)
    found = open_set(name, tmp_path)
    assert found.layout == layout.style and len(found) == len(written.truth)
    assert found.classes == facts.classes and found.background == facts.background
    for i, item in enumerate(found.items):
        image, labels = found.read(i)
        np.testing.assert_array_equal(labels, written.truth[item.name])
        assert labels.dtype == np.int32 and image.shape == (*labels.shape, 3)
        assert labels.min() >= IGNORE and labels.max() < len(facts.classes)


@pytest.mark.parametrize("name, index", LAYOUTS)
def test_a_layout_covers_every_class_and_no_unknown_value(name, index):
    facts = data_set(name)
    layout = facts.layouts[index]
    table = layout.table()
    wanted = set(range(len(facts.classes))) - ({0} if layout.lacks_background else set())
    assert set(table[table >= 0]) == wanted
    # Background may be many values: COCO-Stuff's PNGs as COCO-Object.
    assert np.count_nonzero(table > 0) == len(wanted - {0})
    assert (table == UNKNOWN).any()


@pytest.mark.parametrize("given", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_root_may_be_given_deeper(given, tmp_path):
    facts = data_set("voc")
    write_layout(facts, facts.layouts[0], tmp_path)
    assert len(open_set("voc", tmp_path / given)) == 2


def test_several_sets_share_a_root(tmp_path):
    for name in ("coco_object", "coco_stuff", "voc", "context"):
        facts = data_set(name)
        for layout in facts.layouts:
            write_layout(facts, layout, tmp_path)
    assert {open_set(name, tmp_path).name for name in ("coco_object", "coco_stuff")} == {
        "coco_object",
        "coco_stuff",
    }


@pytest.fixture
def voc(tmp_path):
    facts = data_set("voc")
    return tmp_path, write_layout(facts, facts.layouts[0], tmp_path)


def test_unknown_names_and_folders(tmp_path):
    with pytest.raises(UserError, match="did you mean 'cityscapes'"):
        open_set("cityscape", tmp_path)
    with pytest.raises(UserError, match="expected a folder"):
        open_set("voc", tmp_path / "none")
    with pytest.raises(UserError, match="openseg data prepare ade --root"):
        open_set("ade", tmp_path)


def test_a_missing_file_is_named(voc):
    root, written = voc
    (written.images / "2007_000001.jpg").unlink()
    with pytest.raises(UserError, match=r"JPEGImages/2007_000001.jpg: the picture is missing \(1"):
        open_set("voc", root)
    (written.labels / "2007_000000.png").unlink()
    Image.fromarray(picture((13, 17), 1)).save(written.images / "2007_000001.jpg")
    with pytest.raises(UserError, match=r"2007_000000.png: the label map is missing"):
        open_set("voc", root)


def test_two_files_of_one_name_in_different_folders(tmp_path):
    facts = data_set("cityscapes")
    layout = next(one for one in facts.layouts if one.style == "official")
    written = write_layout(facts, layout, tmp_path)
    for folder, end in ((written.images, layout.image_end), (written.labels, layout.label_end)):
        (folder / "ulm").mkdir()
        (folder / "ulm" / f"0{end}").write_bytes((folder / f"2007_000000{end}").read_bytes())
    found = open_set("cityscapes", tmp_path)
    assert [item.name for item in found.items] == ["2007_000000", "2007_000001", "0"]
    for folder, end in ((written.images, layout.image_end), (written.labels, layout.label_end)):
        (folder / "ulm" / f"0{end}").rename(folder / "ulm" / f"2007_000001{end}")
    with pytest.raises(
        UserError,
        match=r"ulm/2007_000001_left.*: has the name of .*val/2007_000001_left.*rename one",
    ):
        open_set("cityscapes", tmp_path)


def test_half_a_layout_says_what_is_there(voc):
    root, written = voc
    for path in written.images.iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"there is .*SegmentationClass but no VOCdevkit"):
        open_set("voc", root)


def test_an_empty_split_and_a_missing_list(voc):
    root, _ = voc
    listed = root / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    listed.write_text("\n")
    with pytest.raises(UserError, match=r"val.txt: names no picture, the split is empty"):
        open_set("voc", root)
    listed.unlink()
    with pytest.raises(UserError, match=r"val.txt, is missing"):
        open_set("voc", root)


def test_labels_out_of_range_are_refused_by_name(voc):
    root, written = voc
    save_labels(written.labels / "2007_000001.png", np.full((13, 17), 21))
    with pytest.raises(UserError, match=r"000001.png: expected labels from 0 to 20 or 255.*got 21"):
        open_set("voc", root).read(1)


def test_sizes_that_differ_are_refused_by_name(voc):
    root, written = voc
    save_labels(written.labels / "2007_000000.png", np.zeros((17, 13)))
    with pytest.raises(UserError, match=r"000000.png: expected the size of its picture .*17x12"):
        open_set("voc", root).read(0)


def test_labels_of_the_stored_pixels_of_a_turned_picture(voc):
    root, written = voc
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees for display
    stored = picture((12, 17), 0)
    path = written.images / "2007_000000.jpg"
    Image.fromarray(stored).save(path, exif=exif, quality=95)
    image, labels = open_set("voc", root).read(0)
    assert image.shape == (12, 17, 3) and labels.shape == (12, 17)
    assert abs(image.astype(int) - stored).mean() < 60


@pytest.fixture
def own(tmp_path):
    for i in range(3):
        Image.fromarray(picture((8, 9), i)).save(tmp_path / f"image{i}.png")
        (tmp_path / "images" / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture((8, 9), i)).save(tmp_path / "images" / "a" / f"{i}.jpg")
        save_labels(tmp_path / "masks" / "a" / f"{i}.png", np.full((8, 9), i))
    (tmp_path / "classes.txt").write_text("background\nzebra, plains\ngrass\n")
    return tmp_path


def test_a_users_own_set(own):
    found = open_folder(own)
    assert [item.name for item in found.items] == ["a/0", "a/1", "a/2"]
    assert found.background and found.classes == ("background", "zebra, plains", "grass")
    assert [int(found.read(i)[1][0, 0]) for i in range(3)] == [0, 1, 2]
    same = open_folder(own / "images", own / "masks", own / "classes.txt")
    assert dataclasses.replace(found, table=None) == dataclasses.replace(same, table=None)
    assert open_set("folder", own).items == found.items


def test_a_users_own_numbering_and_suffix(own):
    for path in sorted((own / "masks").rglob("*.png")):
        path.rename(path.with_name(path.stem + "_mask.png"))
    found = open_folder(
        own / "images", own / "masks", own / "classes.txt", suffix="_mask", numbering="one_based"
    )
    assert [int(found.read(i)[1][0, 0]) for i in range(3)] == [IGNORE, 0, 1]


def test_sixteen_bits_where_classes_are_many(own):
    (own / "classes.txt").write_text("".join(f"class {i}\n" for i in range(300)))
    save_labels(own / "masks" / "a" / "0.png", np.array([[255, 299, 65535] * 3] * 8))
    np.testing.assert_array_equal(open_folder(own).read(0)[1][0, :3], [255, 299, IGNORE])


def test_what_is_wrong_with_a_users_own_set(own):
    save_labels(own / "masks" / "a" / "2.png", np.full((8, 9), 3))
    with pytest.raises(UserError, match=r"2.png: expected labels from 0 to 2 or 255.*got 3 at 72"):
        open_folder(own).read(2)
    (own / "masks" / "a" / "2.png").unlink()
    with pytest.raises(UserError, match=r"a/2.jpg: has no label map .*1 of 3"):
        open_folder(own)
    with pytest.raises(UserError, match=r"images/a: expected .*no images, no labels, no classes"):
        open_folder(own / "images" / "a")
    with pytest.raises(UserError, match=rf"did you mean {own}\?"):
        open_folder(own / "images")
    with pytest.raises(UserError, match=r"labels: expected files ending in .*no such folder"):
        open_folder(own / "images", own / "labels", own / "classes.txt")
    with pytest.raises(UserError, match="give both"):
        open_folder(own / "images", own / "masks")
    with pytest.raises(UserError, match="numbering: unknown name"):
        open_folder(own, numbering="raw")
    (own / "images" / "a" / "0.png").write_bytes((own / "image0.png").read_bytes())
    with pytest.raises(UserError, match=r"0.png: has the name of .*0.jpg"):
        open_folder(own)
    (own / "classes.txt").write_text("# none\n")
    with pytest.raises(UserError, match="names no class"):
        open_folder(own)

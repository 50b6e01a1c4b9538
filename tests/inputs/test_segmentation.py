import numpy as np
import pytest
from PIL import Image

from openseg_jax.errors import UserError
from openseg_jax.inputs.augment import IGNORE, Views, jitter_colours
from openseg_jax.inputs.pipeline import batches
from openseg_jax.inputs.segmentation import (
    LabelledFolder,
    Segmentation,
    classes_of,
    named_classes,
    read_label_map,
    segments_of,
)
from openseg_jax.inputs.vocabularies import split

NAMES = ("wall", "zebra", "grass", "tv")
UNSEEN = np.array([False, True, False, False])
SMALL = Views(crop=24, short_sides=(16, 32), long_side=64)


def pair(seed=0, size=(20, 30)):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    blocks = rng.integers(0, 4, (2, 3))
    return image, np.kron(blocks, np.ones((size[0] // 2, size[1] // 3), int)).astype(np.int32)


def folder(tmp_path, count=3, suffix="", value=lambda x: x):
    for sub in ("images/a", "labels/a"):
        (tmp_path / sub).mkdir(parents=True)
    for i in range(count):
        image, labels = pair(i)
        Image.fromarray(image).save(tmp_path / f"images/a/{i}.png")
        Image.fromarray(value(labels).astype(np.uint8)).save(tmp_path / f"labels/a/{i}{suffix}.png")
    return str(tmp_path / "images"), str(tmp_path / "labels")


def test_unseen_classes_are_ignored_and_the_others_numbered_anew():
    classes = classes_of(NAMES, UNSEEN)
    assert classes.names == ("wall", "grass", "tv")
    found = classes(np.array([[0, 1, 2], [3, 255, -1]]))
    np.testing.assert_array_equal(found, [[0, IGNORE, 1], [2, IGNORE, IGNORE]])


def test_raw_values_of_label_maps():
    classes = named_classes("coco_stuff171", "coco_stuff_156_15", "raw")
    assert len(classes.names) == 156
    hidden = split("coco_stuff_156_15")
    raw = hidden.vocabulary.raw
    found = classes(np.array([raw]))[0]
    np.testing.assert_array_equal(found == IGNORE, hidden.unseen)
    one = named_classes("voc20", "", "one_based")
    assert one(np.array([[0, 1, 20]])).tolist() == [[IGNORE, 0, 19]]


def test_segments_are_the_classes_present():
    labels = np.array([[2, 2, IGNORE], [0, 2, 5]])
    found = segments_of(labels, 4)
    assert found["segment_class"].tolist() == [0, 2, 5, 0]
    assert found["segment_valid"].tolist() == [True, True, True, False]
    np.testing.assert_array_equal(found["segments"][1], labels == 2)
    assert not found["segments"][3].any()
    few = segments_of(np.array([[1, 1, 1], [0, 2, 2]]), 2)
    assert few["segment_class"].tolist() == [1, 2]
    none = segments_of(np.full((2, 2), IGNORE), 3)
    assert not none["segment_valid"].any() and not none["segments"].any()


def test_views_keep_labels_on_their_pixels():
    labels = np.kron(np.array([[0, 1], [2, 3]]), np.ones((20, 30), int)).astype(np.int32)
    image = np.repeat((labels * 60).astype(np.uint8)[..., None], 3, axis=2)
    views = Views(crop=48, short_sides=(24, 40, 64), colours=False)
    smaller = False
    for seed in range(12):
        picture, found = views.draw(np.random.default_rng(seed), image, labels)
        assert picture.shape == (48, 48, 3) and found.shape == (48, 48)
        inside = found != IGNORE
        # Away from borders, where bilinear pixels mix.
        exact = picture[..., 0][inside] == found[inside] * 60
        assert exact.mean() > 0.8
        assert (picture[~inside] == 128).all()
        smaller |= not inside.all()
    assert smaller


def test_views_are_drawn_anew_each_epoch_and_repeat():
    source = Segmentation(lambda i: pair(i), 3, 4, SMALL, seed=1)
    first, again, other = source.at(1, 0), source.at(1, 0), source.at(1, 1)
    assert all((first[k] == again[k]).all() for k in first)
    assert (first["image"] != other["image"]).any()


def test_colours_change_but_little():
    image = pair()[0]
    shown = [jitter_colours(np.random.default_rng(i), image) for i in range(20)]
    assert all(x.dtype == np.uint8 and x.shape == image.shape for x in shown)
    changed = [np.abs(x.astype(int) - image).mean() for x in shown]
    assert 0 < np.median(changed) < 90


def test_masks_of_unseen_classes_never_reach_a_batch():
    classes, seen_by = classes_of(NAMES, UNSEEN), []

    def read(index):
        image, labels = pair(index)
        image[labels == 1] = 250  # only unseen pixels are this bright
        image[labels != 1] //= 2
        return image, classes(labels)

    def propose(image, labels, index, epoch):
        seen_by.append(labels)
        return np.stack([labels == 0]), np.ones(1, bool)

    views = Views(crop=24, short_sides=(), colours=False)
    data = batches(Segmentation(read, 20, 4, views, propose), 5, prefetch=1)
    hidden = 0
    for _ in range(4):
        batch = next(data)
        secret = (batch["image"] == 250).all(axis=-1)
        hidden += secret.sum()
        assert not (batch["segments"] & secret[:, None]).any()
        assert not (batch["proposals"] & secret[:, None]).any()
        assert batch["segment_class"].max() < 3
    assert hidden > 0 and max(x.max() for x in seen_by) < 3


def test_folders_pair_by_name(tmp_path):
    images, labels = folder(tmp_path, suffix="_labelTrainIds")
    (tmp_path / "images/a/lonely.png").write_bytes((tmp_path / "images/a/0.png").read_bytes())
    source = LabelledFolder(images, labels, classes_of(NAMES), "_labelTrainIds")
    assert len(source) == 3
    image, found = source(1)
    np.testing.assert_array_equal(image, pair(1)[0])
    np.testing.assert_array_equal(found, pair(1)[1])


def test_folder_errors_say_what_to_do(tmp_path):
    images, labels = folder(tmp_path, suffix="_x")
    classes = classes_of(NAMES)
    with pytest.raises(UserError, match=r"a/0_x.*suffix"):
        LabelledFolder(images, labels, classes)
    with pytest.raises(UserError, match=r"input\.masks\.labels"):
        LabelledFolder(images, "", classes)
    with pytest.raises(UserError, match="not in colours"):
        read_label_map(next((tmp_path / "images/a").iterdir()))
    with pytest.raises(UserError, match="did you mean 'raw'"):
        named_classes("voc20", "", "rwa")
    (tmp_path / "own.txt").write_text("egg\nsand\n")
    with pytest.raises(UserError, match="no ids"):
        named_classes(str(tmp_path / "own.txt"), "", "raw")
    with pytest.raises(UserError, match="a split of voc20"):
        named_classes("voc20", "coco_stuff_156_15", "contiguous")


def test_sizes_must_agree():
    image, labels = pair()
    with pytest.raises(UserError, match="own size"):
        SMALL.draw(np.random.default_rng(0), image, labels[:-1])

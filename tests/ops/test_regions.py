"""Region proposals: what they find, cover and repeat."""

import numpy as np
import pytest

from openseg_jax.miniature.streams import scene
from openseg_jax.ops.regions import group, region_proposals, superpixels


def blocks():
    """Three flat fields with a border that no superpixel crosses."""
    image = np.zeros((48, 60, 3), np.uint8)
    image[:, :20], image[:, 20:], image[30:, 20:] = (200, 30, 30), (30, 200, 30), (40, 40, 220)
    truth = np.zeros((48, 60), int)
    truth[:, 20:], truth[30:, 20:] = 1, 2
    return image, truth


def best_iou(masks, truth):
    inter = (masks & truth).sum((1, 2))
    return (inter / (masks | truth).sum((1, 2))).max()


def test_finds_every_field_and_covers_the_picture():
    image, truth = blocks()
    masks = region_proposals(image, 60)
    assert 2 <= len(masks) <= 60 and masks.dtype == bool
    assert masks.any(axis=0).all() and not masks.all(axis=(1, 2)).any()
    for label in range(3):
        assert best_iou(masks, truth == label) > 0.9
    np.testing.assert_array_equal(masks, region_proposals(image, 60))


def test_miniature_scenes_have_good_proposals():
    found = []
    for index in range(3):
        drawn = scene("val", index)
        masks = region_proposals(drawn.image, 100)
        for label in np.unique(drawn.semantic):
            truth = drawn.semantic == label
            if truth.sum() >= 40:
                found.append(best_iou(masks, truth))
    assert np.mean(found) > 0.7


def test_group_merges_the_most_alike_neighbours_first():
    labels = np.repeat(np.arange(4), 3)[None].repeat(4, axis=0).astype(np.int32)
    plane = np.where(labels < 2, 0, 9)[None]
    found = [tuple(np.unique(labels[mask])) for mask in group(labels, plane, 4)]
    assert set(found[:4]) == {(0,), (1,), (2,), (3,)}
    assert set(found[4:]) == {(0, 1), (2, 3)}


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (4, 4), (5, 200)])
def test_small_and_flat_pictures(size):
    masks = region_proposals(np.full((*size, 3), 77, np.uint8), 20)
    assert 1 <= len(masks) <= 20 and masks.any(axis=0).all()


def test_superpixels_are_numbered_without_gaps():
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8)
    for kind in ("felzenszwalb", "slic"):
        labels = superpixels(image, kind, 50)
        assert set(np.unique(labels)) == set(range(labels.max() + 1))

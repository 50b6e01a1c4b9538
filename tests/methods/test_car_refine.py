"""What decides CaR's pixels: PAMR or nothing in place of the CRF, and masks of another source."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.methods.car_config import CaRConfig, configure, presets
from openseg_jax.methods.car_finish import finish
from openseg_jax.methods.car_refine import Remembered, rematch, source_of
from openseg_jax.ops import pamr
from openseg_jax.ops.crf import cam_probabilities
from openseg_jax.ops.masks import paint_labels
from tests.car.models import picture

SIZE = (14, 17)
ALIVE = np.array([True, True, False, True, True])


@functools.cache
def scene():
    """Five soft maps, the third of a dropped text."""
    rng = np.random.default_rng(0)
    image = picture(*SIZE, seed=3)
    maps = rng.random((5, *SIZE)).astype(np.float32) ** 2
    scores = np.where(ALIVE, [0.9, 0.8, 0, 0.7, 0.6], 0).astype(np.float32)
    return image, maps, scores


@functools.cache
def traced(pixels):
    config = configure(refine="pamr", pixels=pixels, pamr_iterations=3)
    return config, jax.jit(functools.partial(finish, config=config, backend="device"))


def finished(config, valid=None):
    image, maps, scores = scene()
    return finish(image, maps, scores, ALIVE, config, valid=valid)


def labels_of(probs):
    return np.argmax(np.concatenate([probs[:1], np.where(ALIVE[:, None, None], probs[1:], -1)]), 0)


def test_pixels_join_the_text_whose_refined_map_is_largest():
    image, maps, scores = scene()
    config, _ = traced("joint")
    masks, kept = finished(config)
    probs = cam_probabilities(maps, alive=ALIVE)
    labels = labels_of(np.asarray(pamr.pamr(image, probs, iterations=3)))
    # Pixels where two maps are as good as equal may fall on either side.
    assert (masks.argmax(axis=0) + masks.any(axis=0) != labels).mean() < 0.01
    assert not masks[2].any() and masks.sum(axis=0).max() == 1
    np.testing.assert_array_equal(kept, scores)
    # Neither the CRF's masks nor the maps' own.
    plain, _ = finished(configure(refine="none"))
    np.testing.assert_array_equal(plain.argmax(0) + plain.any(0), labels_of(probs))
    dense, _ = finished(configure(crf_iterations=3))
    assert (masks != plain).mean() > 0.02 and (masks != dense).mean() > 0.02


def test_separately_each_text_meets_a_background_of_its_own():
    image, maps, scores = scene()
    config, run = traced("separate")
    masks, _ = finished(config)
    want = pamr.pamr(image, np.concatenate([1 - maps, maps]), iterations=3)
    want = (want[5:] > want[:5]) & ALIVE[:, None, None]
    assert (masks != want).mean() < 0.01
    assert masks.sum(axis=0).max() > 1
    np.testing.assert_allclose(run(image, maps, scores, ALIVE)[0], masks, atol=0)


@pytest.mark.parametrize("pixels", ["joint", "separate"])
def test_padding_and_compiling_change_nothing(pixels):
    image, maps, scores = scene()
    config, run = traced(pixels)
    want, _ = finished(config)
    more = [(0, 3), (0, 2)]
    valid = np.pad(np.ones(SIZE, bool), more)
    wide = np.pad(image, [*more, (0, 0)], constant_values=200)
    loud = np.pad(maps, [(0, 0), *more], constant_values=1)
    for form in (functools.partial(finish, config=config), run):
        masks, kept = form(wide, loud, scores, ALIVE, valid=valid)
        assert not np.asarray(masks)[:, ~valid].any()
        assert (np.asarray(masks)[:, : SIZE[0], : SIZE[1]] != want).mean() < 0.01
        np.testing.assert_array_equal(kept, scores)


def test_only_the_crf_loses_what_the_reference_loses():
    for refine in ("pamr", "none"):
        config = configure(refine=refine, crf_truncation=True, pamr_iterations=1)
        empty = np.zeros_like(scene()[1])
        _, kept = finish(scene()[0], empty, scene()[2], ALIVE, config)
        np.testing.assert_array_equal(kept, scene()[2])
    _, kept = finish(scene()[0], empty, scene()[2], ALIVE, configure(crf_truncation=True))
    assert not kept.any()


def boxes(*corners):
    """Masks of SIZE from (top, left, bottom, right)."""
    masks = np.zeros((len(corners), *SIZE), bool)
    for mask, (top, left, bottom, right) in zip(masks, corners, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def matched(masks, proposals, **settings):
    config = configure(**{"sam_iom": 0.7, "sam_min_pred": 0.05, "sam_iou": 0.5, **settings})
    return rematch(scene()[0], masks, lambda image: proposals, config)


def test_masks_are_replaced_by_the_rules():
    ours = boxes((2, 2, 10, 10), (0, 0, 0, 0), (3, 3, 4, 4))
    left, right, far = boxes((2, 2, 10, 6), (2, 6, 10, 11), (12, 12, 14, 17))
    got = matched(ours[:2], np.stack([left, right, far]))
    # Two parts match, and their union is the object; nothing is made of an empty mask.
    np.testing.assert_array_equal(got[0], left | right)
    assert not got[1].any()
    # An IoU that is too small keeps the mask; a negative threshold never does.
    small = matched(ours[:1], far[None])
    np.testing.assert_array_equal(small, ours[:1])
    np.testing.assert_array_equal(matched(ours[:1], far[None], sam_iou=-1.0)[0], far)
    # A part of less than sam_min_pred does not join, though it lies inside.
    speck = boxes((3, 3, 5, 5))
    both = np.concatenate([left[None], right[None], speck])
    np.testing.assert_array_equal(matched(ours[:1], both, sam_min_pred=0.2), got[:1])
    np.testing.assert_array_equal(
        matched(ours[:1], np.concatenate([speck, far[None]]), sam_iou=0.0)[0], speck[0]
    )
    np.testing.assert_array_equal(matched(ours, np.zeros((0, *SIZE), bool)), ours)


def test_a_pixel_of_two_replaced_masks_goes_to_the_better_score():
    ours = boxes((0, 0, 8, 8), (0, 9, 8, 17))
    overlapping = boxes((0, 0, 8, 10), (0, 8, 8, 17))
    got = matched(ours, overlapping)
    np.testing.assert_array_equal(got, overlapping)
    for scores, winner in (([0.9, 0.2], 1), ([0.2, 0.9], 2)):
        labels = np.asarray(paint_labels(got, np.array(scores, np.float32)))
        assert set(labels[:8, 8:10].ravel()) == {winner}
        assert labels[0, 0] == 1 and labels[0, 16] == 2


def test_a_source_is_asked_once_a_picture():
    asked = []

    def source(image):
        asked.append(image.shape)
        return np.stack([image[..., 0] > 100, image[..., 1] > 100])

    kept = Remembered(source)
    for _ in range(2):
        for seed in range(3):
            image = picture(*SIZE, seed=seed)[:, 1:]
            np.testing.assert_array_equal(kept(image)[1], image[..., 1] > 100)
    assert len(asked) == 3
    assert "source" in kept.provenance["name"]
    nothing = Remembered(lambda image: np.zeros((0, *image.shape[:2]), bool))
    assert nothing(scene()[0]).shape == nothing(scene()[0]).shape == (0, *SIZE)
    for seed in range(9):
        kept(picture(*SIZE, seed=seed)[:, 1:])
    assert len(asked) == 9
    kept(picture(*SIZE, seed=0)[:, 1:])
    assert len(asked) == 10, "the first of nine pictures was kept"


@pytest.mark.parametrize(
    "answer",
    [np.zeros((2, 3, 4), bool), np.zeros(SIZE, bool), np.zeros((1, *SIZE), np.uint8), "masks"],
    ids=["size", "one mask", "bytes", "text"],
)
def test_wrong_answers_are_named(answer):
    with pytest.raises(UserError, match=r"masks: expected bool\[N 14 17\]"):
        Remembered(lambda image: answer)(scene()[0])


def test_where_a_source_comes_from():
    assert source_of(CaRConfig(), None) is None
    kept = source_of(CaRConfig(), lambda image: None)
    assert source_of(configure(sam="SAM-B"), kept) is kept
    with pytest.raises(UserError, match="together with sam"):
        source_of(configure(sam="SAM-B"), lambda image: None)
    with pytest.raises(UserError, match="expected a function"):
        source_of(CaRConfig(), np.zeros((1, *SIZE), bool))
    assert configure(sam=pathlib.Path("a") / "b").sam == "a/b"
    with pytest.raises(UserError, match="sam_min_pred"):
        configure(sam_min_pred=5.0)
    assert configure(sam_settings={"points": 8}).sam_settings == (("points", 8),)
    # Published: the demo replaces always.
    assert presets("demo")["sam_iou"] < 0 and "sam_iou" not in presets("voc")


def test_compiled_steps_do_not_depend_on_what_comes_after_them():
    config = configure(refine="pamr", sam="SAM-B", sam_settings={"points": 8})
    assert config.static() == CaRConfig().static()
    assert dataclasses.replace(config, refine="none").static() == config.static()

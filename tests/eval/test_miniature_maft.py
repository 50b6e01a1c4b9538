"""The mask-aware claim's measuring, with classifiers whose answers are known beforehand."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.eval import miniature_maft as mm
from openseg_jax.miniature.noisy_proposals import KINDS, noisy_proposals, regions
from openseg_jax.miniature.streams import scene
from openseg_jax.miniature.world import CLASS_NAMES, UNSEEN_THINGS
from openseg_jax.weights.load import load_clip

CLASSES = len(CLASS_NAMES)


@functools.cache
def few():
    return mm.noisy_scenes("val", 6, size=48, proposals=24)


def knowing(scenes, unseen=True):
    """Cosines of a classifier that knows each mask's purest class, or all but the unseen."""
    found = np.zeros((*scenes.masks.shape[:2], CLASSES), np.float32)
    for i, (masks, truth) in enumerate(zip(scenes.masks, scenes.semantic, strict=True)):
        for j, mask in enumerate(masks):
            counts = np.bincount(truth[mask], minlength=CLASSES + 1)[1:]
            # A pure mask is sure of its class; a mixed one hesitates as much as it is mixed.
            found[i, j] = counts / max(mask.sum(), 1)
    if not unseen:
        found[..., mm.UNSEEN[1:]] = -1
    return found


def test_a_classifier_that_knows_wins_and_one_that_guesses_does_not():
    right = mm.splits(mm.confusions(knowing(few()), few(), 20.0))
    assert min(right.values()) > 0.6
    blind = mm.splits(mm.confusions(knowing(few(), unseen=False), few(), 20.0))
    assert blind["unseen"] == 0 and blind["seen"] > 0.5
    none = mm.splits(mm.confusions(np.zeros_like(knowing(few())), few(), 20.0))
    assert none["harmonic"] < 0.05


def test_every_pixel_of_every_scene_is_counted_once():
    counted = mm.confusions(knowing(few()), few(), 20.0)
    assert counted.shape == (6, CLASSES + 1, CLASSES + 1)
    np.testing.assert_array_equal(counted.sum((1, 2)), 48 * 48)
    assert not counted[:, 0].any()  # no ground truth is "nothing"


def test_pixels_without_a_mask_are_misses():
    bare = dataclasses.replace(few(), masks=np.zeros_like(few().masks))
    counted = mm.confusions(knowing(few()), bare, 20.0)
    assert counted[:, :, 0].sum() == counted.sum() and mm.splits(counted)["seen"] == 0


def test_the_interval_holds_the_gain_and_is_zero_between_equals():
    good = mm.confusions(knowing(few()), few(), 20.0)
    bad = mm.confusions(np.zeros_like(knowing(few())), few(), 20.0)
    gain = mm.splits(good)["seen"] - mm.splits(bad)["seen"]
    low, high = mm.gain_interval(bad, good, draws=100)["seen"]
    assert low <= gain <= high and low > 0.2
    assert mm.gain_interval(good, good, draws=20) == {"seen": (0.0, 0.0), "unseen": (0.0, 0.0)}


def test_unseen_things_are_at_least_six_and_never_training_proposals():
    assert mm.UNSEEN.sum() == len(UNSEEN_THINGS) >= 6 and not mm.UNSEEN[0]
    hidden = np.flatnonzero(mm.UNSEEN)
    for index in range(30):
        one = scene("train", index, 48)
        masks = regions(one, unseen=False)
        assert not any(np.isin(one.semantic[m], hidden).all() for m in masks if m.any())


def test_scenes_are_the_same_each_time_and_hold_every_kind_of_proposal():
    again = mm.noisy_scenes("val", 6, size=48, proposals=24)
    np.testing.assert_array_equal(again.masks, few().masks)
    one = scene("val", 0, 48)
    kinds = noisy_proposals("val", 0, regions(one), 80).kind  # "random" fills what is left
    assert set(kinds) == set(range(len(KINDS)))
    with pytest.raises(UserError, match="at least 1"):
        mm.noisy_scenes("val", 0)


@pytest.mark.slow
def test_the_whole_measurement_on_random_weights(world_model):
    clip = load_clip(str(world_model))
    with pytest.raises(UserError, match="fine-tuned"):
        mm.Tower(clip, tuned=True, size=32)
    visual = jax.tree.map(np.asarray, clip.params["visual"])
    tuned = dataclasses.replace(clip, extras={"maft": {"visual": visual}})
    told = []
    claim = mm.measure(
        clip, tuned, scenes=4, validation=3, starts=(1,), sizes=(32,), temperatures=(1.0, 50.0),
        progress=told.append,
    )  # fmt: skip
    # Nothing was changed in the copy, so nothing may come out.
    assert claim.frozen == claim.tuned and not claim.holds and claim.scenes == 4
    assert claim.gain == {"seen": 0.0, "unseen": 0.0, "harmonic": 0.0}
    assert claim.chosen["frozen"] == claim.chosen["tuned"] and told[-1] == "bootstrap"

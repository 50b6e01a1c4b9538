"""MAFT as a segmenter: batches, padding, backgrounds, given masks, and mistakes."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from openseg_jax import api
from openseg_jax.errors import UserError
from openseg_jax.methods import maft_config, rounds
from openseg_jax.methods.base import Segmenter, load_segmenter
from openseg_jax.methods.maft import Maft, load
from openseg_jax.methods.maft_encoder import short_edge_size
from openseg_jax.methods.maft_texts import from_embeddings
from openseg_jax.ops.masks import to_label_map
from tests.car.models import picture, tiny_clip

NAMES = ["zebra", "grass", "sky"]


@functools.cache
def clip(**changes):
    return dataclasses.replace(tiny_clip(depth=2, **dict(changes)))


@functools.cache
def maft(**settings):
    return load(clip(), **settings)


def scores_of(masks):
    return np.asarray(masks.scores)


def two_pictures():
    # One size for most tests: they share what was compiled.
    return np.stack([picture(24, 36, seed) for seed in (1, 2)])


def test_follows_the_protocol_and_runs_under_jit():
    method = maft()
    assert isinstance(method, Segmenter) and isinstance(load_segmenter("maft", clip()), Maft)
    image, text = two_pictures(), method.classes(NAMES)
    eager = method.segment(method.params, image, text)
    jitted = jax.jit(method.segment)(method.params, image, text)
    assert eager.probs.shape[::2] == (2, 24) and scores_of(eager).shape[::2] == (2, len(NAMES))
    np.testing.assert_allclose(scores_of(eager).sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(scores_of(eager), scores_of(jitted), atol=1e-5)
    np.testing.assert_array_equal(eager.valid, jitted.valid)
    labels = np.asarray(to_label_map(eager, threshold=method.threshold))
    # Regions cover the picture, so every pixel has a label.
    painted, segments = method.panoptic(eager, text, place=1, things=["zebra"])
    assert painted.shape == (24, 36) and painted.max() == len(segments)
    assert all(found.label == 2 for found in method.instances(eager, text, things=["sky"]))
    with pytest.raises(UserError, match="did you mean 'sky'"):
        method.instances(eager, text, things=["skye"])
    assert labels.shape == (2, 24, 36) and labels.min() >= 1 and labels.max() <= len(NAMES)


def test_padding_of_images_changes_nothing():
    method = maft()
    text, image = method.classes(NAMES), two_pictures()
    canvas = np.full((2, 32, 40, 3), 99, np.uint8)
    valid = np.zeros(canvas.shape[:3], bool)
    canvas[0, :24, :36], valid[0, :24, :36] = image[0], True
    canvas[1, :16, :30], valid[1, :16, :30] = image[1, :16, :30], True
    got = method.segment(method.params, canvas, text, valid)
    assert not np.asarray(got.probs)[~np.broadcast_to(valid[:, None], got.probs.shape)].any()
    for i, (h, w) in enumerate([(24, 36), (16, 30)]):
        alone = method.segment(method.params, canvas[i : i + 1, :h, :w], text)
        np.testing.assert_array_equal(got.probs[i, :, :h, :w], alone.probs[0])
        np.testing.assert_allclose(scores_of(got)[i], scores_of(alone)[0], atol=1e-4)


def test_backgrounds_compete_and_are_not_reported():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4, clip().config.embed_dim))
    rivals = rng.normal(size=(2, clip().config.embed_dim))
    method, image = maft(), two_pictures()
    plain = method.segment(method.params, image, from_embeddings(rows))
    rivalled = method.segment(method.params, image, from_embeddings(rows, background=rivals))
    assert scores_of(plain).shape[-1] == 4 and scores_of(rivalled).shape[-1] == 6
    # Each class keeps its odds against the others; the backgrounds only take their share.
    odds = scores_of(plain) * scores_of(rivalled)[..., :4].sum(-1, keepdims=True)
    np.testing.assert_allclose(scores_of(rivalled)[..., :4], odds, atol=1e-4)


def test_given_masks_and_what_they_leave_open():
    masks = np.zeros((2, 3, 24, 36), np.float32)
    masks[:, 0, :10], masks[:, 1, :, 30:] = 1, 0.8
    method = load(clip(), proposals="masks", proposal_settings={"masks": masks})
    text = method.classes(NAMES)
    found = method.segment(method.params, two_pictures(), text)
    assert found.valid.tolist() == [[True, True, False]] * 2
    labels = np.asarray(to_label_map(found, threshold=method.threshold))
    covered = masks.any(axis=1)
    assert (labels[covered] > 0).all() and (labels[~covered] == 0).all()
    scores = method.classify(method.params, two_pictures(), masks, text)
    np.testing.assert_allclose(scores, scores_of(found), atol=1e-5)


def test_plan_follows_the_tower_and_the_settings():
    small = clip().config.vision
    real = dataclasses.replace(small, image_size=224, patch_size=16, depth=12)
    config = maft_config.configure()
    assert maft_config.plan(config, real) == maft_config.Plan(480, (30, 30), 8, 640)
    assert maft_config.plan(config, small) == maft_config.Plan(32, (4, 4), 1, 0)
    other = maft_config.configure(size=336, start=3)
    assert maft_config.plan(other, real) == maft_config.Plan(336, (21, 21), 3, 0)
    large = dataclasses.replace(real, patch_size=14, depth=24)
    assert maft_config.plan(config, large).grid == (34, 34)
    assert short_edge_size((480, 641), 640, 2560) == (640, 855)
    assert short_edge_size((10, 100), 640, 2560) == (256, 2560)


def test_weights_bring_their_settings_and_parity_leaves_them_out():
    kept = dataclasses.replace(clip(), defaults={"maft": {"temperature": 20.0, "start": 0}})
    assert load(kept).config.temperature == 20.0
    assert load(kept, temperature=7.0).config.temperature == 7.0
    reference = load(kept, parity="reference").config
    assert (reference.temperature, reference.start, reference.pad_to) == (100.0, None, 32)


def test_a_tuned_tower_is_used_unless_told_otherwise():
    visual = jax.tree.map(lambda x: x * 1.5, clip().params["visual"])
    tuned = dataclasses.replace(clip(), extras={"maft": {"visual": visual}})
    for tower, want in (("tuned", visual), ("frozen", clip().params["visual"])):
        got = load(tuned, tower=tower).params["visual"]
        np.testing.assert_array_equal(got["class_embedding"], want["class_embedding"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"proposals": "region"}, "did you mean 'regions'"),
        ({"temprature": 3.0}, "did you mean 'temperature'"),
        ({"temperature": 0.0}, "temperature: expected a number above 0"),
        ({"ensemble_weight": 0.7}, "needs proposals that come with class scores"),
        ({"ensemble_weight": 7.0}, r"ensemble_weight: expected a number in \[0, 1\]"),
        ({"templates": ["no place"]}, "templates: expected one"),
        ({"pos_resample": "cubic"}, "did you mean 'bicubic'"),
        ({"size": 3}, "size: expected at least one patch"),
        ({"tower": "teacher"}, "tower: unknown name"),
        ({"dtype": "int8"}, "dtype: expected"),
        ({"proposals": "masks"}, "was given none"),
        ({"proposal_settings": {"count": 1}}, "count: expected a whole number of 2"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        method = load(clip(), **settings)
        method.segment(method.params, two_pictures(), method.classes(NAMES))


def test_a_tower_without_class_token_and_bad_names_are_refused():
    with pytest.raises(UserError, match="MAFT needs an image tower with a class token"):
        vision = dataclasses.replace(clip().config.vision, pool="map")
        config = dataclasses.replace(clip().config, vision=vision)
        load(dataclasses.replace(clip(), config=config))
    for names, message in ((["a", "a"], "given twice"), ([], "at least one"), ("a", "a list")):
        with pytest.raises(UserError, match=message):
            maft().classes(names)


def test_the_facade_end_to_end():
    image = picture(24, 36, 3)
    result = api.segment(image, ["zebra", "grass", "unicorn"], method="maft", model=clip())
    assert result.record["method"] == "Maft" and result.record["settings"]["temperature"] == 100
    assert len(result.record["models"]) == 1
    assert any("unicorn" in note for note in result.notes)
    assert result.kept and abs(sum(result.areas.values()) - 1) < 1e-6
    for name in result.names:
        assert (result.scores[name] > 0) == (name in result.kept) == (result.areas[name] > 0)
    alone = api.segment(image, ["zebra"], method="maft", model=clip(), background=["grass", "sky"])
    assert set(np.unique(alone.label_map)) <= {0, 1}


def test_many_labels_compete_at_once(monkeypatch):
    monkeypatch.setattr(rounds, "ROUND", 2)
    names = ["zebra", "grass", "sky", "lemon"]
    result = api.segment(picture(24, 36, 3), names, method="maft", model=clip())
    assert not any("rounds" in note for note in result.notes)

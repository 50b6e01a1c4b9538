"""Examples of pairs: crops that repeat exactly, and broken pairs counted and replaced."""

import numpy as np
import pytest
from absl import logging

from openseg_jax.errors import UserError
from openseg_jax.inputs.crops import Crop, random_crop, resize_crop
from openseg_jax.inputs.images import decode_image
from openseg_jax.inputs.pairs import PairExamples, clean_caption
from openseg_jax.inputs.pipeline import batches
from tests.inputs.captioned import pairs, picture


class Listed(list):
    def name(self, index):
        return f"pair {index}"


def encode(texts):
    return np.array([[len(text), ord(text[0])] for text in texts], np.int32)


def source(found, **settings):
    return PairExamples(Listed(found), encode, 16, **settings)


def equal(a, b):
    return all(np.array_equal(a[key], b[key]) for key in a)


def test_examples_are_functions_of_seed_index_and_epoch():
    data = source(pairs())
    first = data.at(2, 1)
    assert first["image"].shape == (16, 16, 3) and first["image"].dtype == np.uint8
    assert first["ids"].tolist() == [7, ord("t")] and first["skipped"].tolist() == [0, 0]
    assert equal(first, source(pairs()).at(2, 1))
    for other in (data.at(2, 0), source(pairs(), seed=1).at(2, 1)):
        assert not np.array_equal(first["image"], other["image"])
    assert equal(data[2], data.at(2, 0))
    whole = source(pairs(), scale=(1.0, 1.0))
    assert np.array_equal(whole.at(2, 0)["image"], whole.at(2, 5)["image"])


def test_broken_pairs_are_counted_and_replaced(caplog, monkeypatch):
    caplog.set_level(logging.WARNING)
    # Messages are limited in number for the whole process.
    monkeypatch.setattr(logging, "_log_counter_per_token", {})
    data = source(pairs(broken=(1, 5), empty=(2,)))
    replaced = data.at(1, 0)
    assert replaced["skipped"].tolist() == [1, 0]
    assert np.array_equal(replaced["ids"], data.at(3, 0)["ids"])
    # at the end it goes on from the beginning
    assert np.array_equal(data.at(5, 0)["ids"], data.at(0, 0)["ids"])
    # each is counted once, although the empty caption is met from 1 and from 2
    total = sum(data.at(i, 0)["skipped"] for i in range(6))
    assert total.tolist() == [2, 1]
    assert "damaged" in caplog.text and "empty caption" in caplog.text


def test_a_pair_that_cannot_be_read_is_a_broken_one():
    class Gone(Listed):
        def __getitem__(self, index):
            if index == 0:
                raise FileNotFoundError("0.png")
            return super().__getitem__(index)

    assert PairExamples(Gone(pairs()), encode, 16).at(0, 0)["skipped"].tolist() == [1, 0]


def test_nothing_but_broken_pairs_is_an_error():
    with pytest.raises(UserError, match=r"2 broken pictures and 1 empty captions .* pair 0"):
        source(pairs(3, broken=(0, 2), empty=(1,))).at(0, 0)


def test_extras_see_the_whole_picture_and_the_crop():
    seen = []

    def extras(image, crop):
        seen.append((image.shape, crop))
        return {"more": np.int32(3)}

    assert source(pairs(), extras=extras).at(0, 0)["more"] == 3
    shape, crop = seen[0]
    assert shape == (24, 40, 3) and crop.size == (24, 40)
    image = resize_crop(decode_image(picture(0), "x"), crop, 16)
    np.testing.assert_array_equal(image, source(pairs()).at(0, 0)["image"])


def test_batches_change_with_the_epoch_and_resume():
    data = source(pairs(), seed=3)
    stream = batches(data, 3, shuffle=False)
    epochs = [next(stream) for _ in range(4)]
    assert np.array_equal(epochs[0]["ids"], epochs[2]["ids"])
    assert not np.array_equal(epochs[0]["image"], epochs[2]["image"])
    assert np.array_equal(epochs[2]["image"][1], data.at(1, 1)["image"])
    resumed = batches(data, 3, shuffle=False)
    state_from = batches(data, 3, shuffle=False)
    for _ in range(3):
        next(state_from)
    resumed.set_state(state_from.get_state())
    assert equal(next(resumed), epochs[3])


def test_captions_are_cleaned():
    assert clean_caption("  salt &amp;amp; pepper\n &lt;3 ") == "salt & pepper <3"
    # what ftfy makes of sound text, which is what CLIP was trained on
    curly = "it\u2019s a \u201cred\u201d \ufb01sh\ufeff \uff21\uff11 cafe\u0301\x07 \u2013 fin"
    assert clean_caption(curly) == 'it\'s a "red" fish A1 caf\u00e9 \u2013 fin'
    assert clean_caption("&rsquo;&nbsp;") == "'" and not clean_caption("&nbsp;\ufeff\u200a")


def test_crops_lie_inside_and_follow_their_limits():
    rng = np.random.default_rng(0)
    for size in ((30, 90), (90, 30), (64, 64), (2, 3), (1, 1)):
        for _ in range(50):
            crop = random_crop(rng, size)
            assert crop.top >= 0 and crop.top + crop.height <= size[0]
            assert crop.left >= 0 and crop.left + crop.width <= size[1]
            assert min(crop.height, crop.width) >= 1
            x0, y0, x1, y1 = crop.fractions
            assert 0 <= x0 <= x1 <= 1 and 0 <= y0 <= y1 <= 1
    shares, ratios = [], []
    for _ in range(300):
        crop = random_crop(rng, (200, 200))
        shares.append(crop.height * crop.width / 200**2)
        ratios.append(crop.width / crop.height)
    assert 0.49 < min(shares) < 0.55 and 0.9 < max(shares) <= 1.0
    assert 0.74 < min(ratios) < 0.8 and 1.25 < max(ratios) < 1.35


def test_crops_of_long_pictures_fall_back_to_the_centre():
    # No share of half the area fits a picture ten times as long as high.
    crop = random_crop(np.random.default_rng(0), (20, 200))
    assert (crop.top, crop.left, crop.height, crop.width) == (0, 86, 20, 27)


def test_resizing_looks_at_the_crop_alone():
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, 10:] = 255
    part = resize_crop(image, Crop(0, 0, 20, 10, (20, 20)), 4)
    assert part.max() == 0

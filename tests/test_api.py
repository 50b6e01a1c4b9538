"""The facade: five lines, arrays or paths, results that know their names."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

import openseg_jax
from openseg_jax import api
from openseg_jax.errors import UserError
from openseg_jax.methods import rounds
from tests.cli.fake import FakeSegmenter


@pytest.fixture
def fake(monkeypatch):
    segmenter = FakeSegmenter()
    monkeypatch.setattr(api, "load", lambda method, model, settings=(): segmenter)
    return segmenter


def red_and_blue(height=20, width=30):
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[:5, :, 0], rgb[10:, :, 2] = 255, 255
    return rgb


def test_five_lines(fake, tmp_path):
    Image.fromarray(red_and_blue()).save(tmp_path / "a.png")
    result = openseg_jax.segment(tmp_path / "a.png", ["red", "green", "blue"])
    assert result.kept == ("red", "blue") and result.scores["green"] == 0
    assert list(result.masks) == ["red", "blue"]
    assert result.masks["blue"][10:].all() and not result.masks["blue"][:10].any()
    assert result.areas == {"red": 0.25, "green": 0.0, "blue": 0.5}
    assert result.overlay().shape[2] == 3
    paths = result.save(tmp_path / "o")
    assert [p.name for p in paths] == ["result.png", "result_overlay.png", "result.json"]
    json.dumps(result.to_json())


def test_arrays_must_be_pictures(fake):
    with pytest.raises(UserError, match="image: expected uint8"):
        openseg_jax.segment(np.zeros((4, 4, 3)), ["red"])
    with pytest.raises(UserError, match="image"):
        openseg_jax.segment(np.zeros((4, 4), np.uint8), ["red"])
    with pytest.raises(UserError, match="expected a list, got one string"):
        openseg_jax.segment(red_and_blue(), "red, blue")


def test_the_number_of_patches_is_limited(tiny_model):
    segmenter = api.load("car", str(tiny_model))
    assert api.side_limit(segmenter, (300, 400)) == 400
    assert api.side_limit(segmenter, (512, 512)) == 512
    assert api.side_limit(segmenter, (1000, 1000)) == 512
    assert api.side_limit(segmenter, (10, 5000)) == 1024
    assert api.load("car", str(tiny_model)) is segmenter


def test_rounds_keep_the_names_in_place(fake, monkeypatch):
    monkeypatch.setattr(rounds, "ROUND", 4)
    names = [f"n{i}" for i in range(9)] + ["blue", "n10", "red"]
    result = openseg_jax.segment(red_and_blue(), names)
    assert result.masks["red"][:5].all() and result.masks["blue"][10:].all()
    assert {"red", "blue"} <= set(result.kept)
    assert max(len(asked) for asked, _ in fake.calls) <= 4
    plain = FakeSegmenter().segment({}, red_and_blue()[None], tuple(names)).probs[0]
    np.testing.assert_array_equal(result.label_map == 12, plain[11] > 0.5)


def test_rounds_that_find_nothing_leave_background(fake, monkeypatch):
    """Methods with a background threshold, SegCLIP for one, may keep no label at all."""
    monkeypatch.setattr(rounds, "ROUND", 2)
    segment = FakeSegmenter.segment

    def strict(self, *given):
        assert given[2], "a round of no labels"
        masks = segment(self, *given)
        found = masks.probs.any((2, 3))
        return dataclasses.replace(masks, scores=masks.scores * found, valid=found)

    monkeypatch.setattr(FakeSegmenter, "segment", strict)
    result = openseg_jax.segment(red_and_blue(), ["a", "b", "c"])
    assert not result.kept and not result.label_map.any() and not any(result.scores.values())
    both = openseg_jax.segment(red_and_blue(), ["a", "b", "c", "red"])
    assert both.kept == ("red",)


def test_progress_tells_every_round(fake, monkeypatch):
    monkeypatch.setattr(rounds, "ROUND", 3)
    seen = []
    api.segment_batch(fake, [red_and_blue()], ["a", "b", "c", "d", "red"], progress=seen.append)
    assert seen == [pytest.approx(1 / 3), pytest.approx(2 / 3)]


def test_a_failing_write_leaves_nothing(fake, tmp_path, monkeypatch):
    result = openseg_jax.segment(red_and_blue(), ["red"])
    monkeypatch.setattr(api.Segmentation, "overlay", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        result.save(tmp_path / "o")
    assert list((tmp_path / "o").iterdir()) == []

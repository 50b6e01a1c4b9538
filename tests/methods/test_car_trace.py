"""CaR's steps for people: the same result as without, and a true account of who died when."""

import numpy as np
import pytest

from openseg_jax.methods.base import load_segmenter
from openseg_jax.methods.car_trace import chosen, trace


@pytest.fixture(scope="module")
def car(tiny_model):
    # Half of the texts get more than 1 / 4.
    return load_segmenter(
        "car", str(tiny_model), refine="none", score_rule="mean", confidence_threshold=0.25
    )


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)


@pytest.mark.slow
def test_the_trace_is_the_run(car, image):
    names = ["zebra", "grass", "sky", "lemon"]
    plain, seen = car.predict(image, names), []
    result, steps = trace(car, image, names, side=20, watch=seen.append)
    np.testing.assert_array_equal(result.masks, plain.masks)
    np.testing.assert_array_equal(result.scores, plain.scores)
    assert len(steps) == len(seen) == plain.steps
    alive = names
    for number, step in enumerate(steps, 1):
        assert step.number == number and step.threshold == 0.25
        assert [text.name for text in step.texts] == alive
        for text in step.texts:
            assert text.kept == (text.score > np.float32(0.25)) or step.rescued
        alive = [text.name for text in step.texts if text.kept]
        assert [t.name for t in step.dropped] == [t.name for t in step.texts if not t.kept]
        assert step.last == (number == len(steps))
        for drawing in step.drawings:
            assert drawing.text in step.texts
            assert drawing.mask.shape == (14, 20) and drawing.prompted.shape == (14, 20, 3)
        scores = [drawing.text.score for drawing in step.drawings]
        assert scores == sorted(scores, reverse=True)
    assert alive == [n for n, kept in zip(names, plain.alive, strict=True) if kept]


@pytest.mark.slow
def test_drawings_are_what_the_classifier_saw(car, image):
    names, events = ["zebra", "grass", "sky", "lemon"], []
    car.predict(image, names, observe=events.append)
    _, steps = trace(car, image, names, side=10**6)
    for event, step in zip(events, steps, strict=True):
        for drawing in step.drawings:
            row = step.texts.index(drawing.text)
            # Two programs: a value on the border of a threshold may fall on either side.
            assert (drawing.mask == event["masks"][row]).mean() > 0.99
            near = np.abs(drawing.prompted.astype(int) - event["prompted"][row]) <= 1
            assert near.mean() > 0.9


def test_texts_that_died_are_among_the_drawn():
    scores = np.array([0.9, 0.1, 0.8, 0.2, 0.7, 0.6, 0.55, 0.5, 0.65, 0.75])
    kept = scores > 0.3
    assert chosen(scores, kept) == [0, 2, 9, 4, 8, 5, 3, 1]
    assert chosen(scores, np.ones(10, bool)) == [0, 2, 9, 4, 8, 5, 6, 7]
    assert chosen(scores, np.zeros(10, bool))[:3] == [0, 2, 9]
    assert chosen(scores[:2], kept[:2]) == [0, 1]

"""The end of CaR: what the reference loses, alike on the host and in one traced program."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from openseg_jax.methods.car import CaR
from openseg_jax.methods.car_config import configure
from openseg_jax.methods.car_finish import finish, truncate
from tests.car.models import car, picture, random_text, tiny_clip

SIZE = (12, 16)


def lost(masks, scores, alive, separate):
    """What the reference returns, built as it does: texts in a list, one after the other."""
    out, left = np.zeros_like(masks), np.zeros_like(scores)
    (places,) = np.nonzero(alive)
    stack = [masks[i] for i in places]
    if separate:
        stack = [mask for mask in stack if mask.any()]
    else:
        while stack and not stack[-1].any():
            stack.pop()
    for place, mask in zip(places, stack, strict=False):
        out[place], left[place] = mask, scores[place]
    return out, left


@pytest.mark.parametrize("separate", [False, True])
def test_truncation_is_the_references_in_any_form(separate):
    traced = jax.jit(functools.partial(truncate, separate=separate))
    rng = np.random.default_rng(0)
    changed = 0
    for _ in range(100):
        alive = rng.random(6) < 0.7
        filled = alive & (rng.random(6) < 0.6)
        masks = (rng.random((6, 3, 4)) < 0.5) & filled[:, None, None]
        scores = np.where(alive, rng.random(6), 0).astype(np.float32)
        want = lost(masks, scores, alive, separate)
        for ours in (
            truncate(masks, scores, alive, separate=separate),
            traced(masks, scores, alive),
        ):
            np.testing.assert_array_equal(ours[0], want[0])
            np.testing.assert_array_equal(ours[1], want[1])
        changed += not np.array_equal(scores, want[1])
    assert changed > 20


@functools.cache
def maps():
    """Five texts, far from every edge: 1 is dropped, 0 and 3 fill a half, 2 and 4 nothing."""
    full = np.zeros((5, *SIZE), np.float32)
    full[0, :, :8], full[3, :, 8:] = 0.9, 0.9
    return full, np.array([1, 0, 1, 1, 1], bool), np.array([0.9, 0, 0.8, 0.7, 0.6], np.float32)


@pytest.mark.parametrize("pixels", ["joint", "separate"])
def test_host_and_traced_lose_the_same(pixels):
    full, alive, scores = maps()
    image = np.zeros((*SIZE, 3), np.uint8)
    image[:, 8:] = 200
    config = configure(pixels=pixels, crf_iterations=1, crf_truncation=True)
    plain = dataclasses.replace(config, crf_truncation=False)
    run = functools.partial(finish, image)
    masks, left = run(full, scores, alive, config)
    # Jointly the last text is lost; one by one text 3's mask moves to text 2, and 3 and 4 are lost.
    np.testing.assert_array_equal(left > 0, [1, 0, 1, pixels == "joint", 0])
    assert masks[2].any() == (pixels == "separate") and masks[3].any() == (pixels == "joint")
    device = jax.jit(functools.partial(run, config=config, backend="device"))
    traced = device(full, scores, alive)
    np.testing.assert_array_equal(traced[0], masks)
    np.testing.assert_array_equal(traced[1], left)
    # Without the switch nothing is lost.
    kept, every = run(full, scores, alive, plain)
    np.testing.assert_array_equal(every, scores)
    np.testing.assert_array_equal(kept.any(axis=(1, 2)), [1, 0, 0, 1, 0])


@pytest.mark.slow
def test_the_traced_form_of_car_has_the_switch():
    cam, classifier = tiny_clip(0), tiny_clip(1, size=16, depth=2)
    # Where no map weakens the background it takes every pixel, and all texts come behind the last.
    seg = car(
        cam, classifier, crf_iterations=1, bg_factor=0.0, crf_truncation=True,
        confidence_threshold=0.2, score_rule="mean", visual_prompts=("blur",),
    )  # fmt: skip
    text, images = random_text(cam, classifier, 3), picture(32, 32, seed=1)[None]
    host = seg.segment(seg.params, images, text)
    traced = jax.jit(seg.segment)(seg.params, images, text)
    for masks in (host, traced):
        assert not np.asarray(masks.probs).any() and not np.asarray(masks.scores).any()
        assert np.asarray(masks.valid).any()
    other = CaR(cam, classifier, dataclasses.replace(seg.config, crf_truncation=False))
    assert np.asarray(other.segment(seg.params, images, text).scores).any()

"""Losses against sums written out in float64."""

import jax.numpy as jnp
import numpy as np

from openseg_jax.ops.losses import same_caption, sigmoid_contrastive, softmax_contrastive

CAPTION = np.array([3, 5, 3, 9, 5, 3], np.int32)


def _vectors(seed=0, rows=6):
    x = np.random.default_rng(seed).normal(size=(2, rows, 8))
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _softmax_by_hand(image, text, scale, positive):
    total = 0.0
    for a, b in ((image, text), (text, image)):
        logits = scale * a @ b.T
        for i, row in enumerate(logits):
            log_sum = np.log(np.exp(row - row.max()).sum()) + row.max()
            total -= (row[positive[i]] - log_sum).mean()
    return total / (2 * len(image))


def test_equal_captions_are_positives_of_one_another():
    positive = np.asarray(same_caption(jnp.asarray(CAPTION)))
    np.testing.assert_array_equal(positive, [[a == b for b in CAPTION] for a in CAPTION])


def test_softmax_matches_float64():
    image, text = _vectors()
    positive = CAPTION[:, None] == CAPTION[None]
    got = softmax_contrastive(*map(jnp.float32, (image, text, 12.5)), jnp.asarray(positive))
    np.testing.assert_allclose(got, _softmax_by_hand(image, text, 12.5, positive), rtol=1e-5)
    # the wrong variant: only the own caption counts
    wrong = _softmax_by_hand(image, text, 12.5, np.eye(6, dtype=bool))
    assert abs(float(got) - wrong) > 0.05


def test_distinct_captions_give_the_loss_of_clip():
    image, text = _vectors(1)
    logits = 10.0 * image @ text.T
    rows = -np.log(np.exp(logits).diagonal() / np.exp(logits).sum(1)).mean()
    columns = -np.log(np.exp(logits).diagonal() / np.exp(logits).sum(0)).mean()
    got = softmax_contrastive(*map(jnp.float32, (image, text, 10.0)), jnp.eye(6, dtype=bool))
    np.testing.assert_allclose(got, (rows + columns) / 2, rtol=1e-5)


def test_sigmoid_matches_float64():
    image, text = _vectors(2)
    positive = CAPTION[:, None] == CAPTION[None]
    logits = 10.0 * image @ text.T - 4.0
    sign = np.where(positive, 1.0, -1.0)
    want = np.log1p(np.exp(-sign * logits)).sum() / len(image)
    args = [jnp.float32(x) for x in (image, text, 10.0, -4.0)]
    np.testing.assert_allclose(sigmoid_contrastive(*args, jnp.asarray(positive)), want, rtol=1e-5)
    # the wrong variant: a mean over pairs
    assert abs(want - np.log1p(np.exp(-sign * logits)).mean()) > 0.1


def test_equal_texts_leave_softmax_as_it_was_but_not_sigmoid():
    image, text = _vectors(3)
    text = text[[0, 1, 0, 3, 1, 0]]
    multiple, single = jnp.asarray(CAPTION[:, None] == CAPTION[None]), jnp.eye(6, dtype=bool)
    args = [jnp.float32(x) for x in (image, text, 10.0)]
    np.testing.assert_allclose(
        softmax_contrastive(*args, multiple), softmax_contrastive(*args, single), rtol=1e-5
    )
    one, other = (sigmoid_contrastive(*args, jnp.float32(0), p) for p in (multiple, single))
    assert abs(float(one) - float(other)) > 0.1

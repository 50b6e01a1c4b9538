import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.ops import masks as ops
from openseg_jax.types import Masks


def blobs(count=5, h=12, w=15, seed=0):
    return np.random.default_rng(seed).random((count, h, w)) > 0.6


def test_painting_equals_one_mask_after_the_other():
    rng = np.random.default_rng(1)
    for seed in range(10):
        masks, ids = blobs(7, seed=seed), rng.permutation(30)[:7]
        scores = rng.choice(np.array([0.0, -0.1, 0.2, 0.5, 0.7, 0.9], np.float32), 7)
        base = rng.integers(0, 5, masks.shape[1:])
        want = base.copy()
        for i in np.argsort(scores, kind="stable"):
            if scores[i] > 0:
                want[masks[i]] = ids[i] + 1
        got = jax.jit(ops.paint_labels)(masks, scores, ids, base=base)
        np.testing.assert_array_equal(got, want)
        backward = ops.paint_labels(masks, 1 - scores, ids, base=base)
        assert (np.asarray(backward) != want).any()


def test_padding_rows_are_never_painted():
    masks = np.concatenate([blobs(3), np.ones((2, 12, 15), bool)])
    scores = np.array([0.3, 0.2, 0.6, 0.9, 0.9], np.float32)
    valid = np.array([True, True, True, False, False])
    want = ops.paint_labels(masks[:3], scores[:3])
    np.testing.assert_array_equal(ops.paint_labels(masks, scores, valid=valid), want)
    assert (np.asarray(ops.paint_labels(masks, scores)) != want).any()
    probs = jnp.asarray(masks, jnp.float32)[None]
    label = jax.jit(ops.to_label_map, static_argnames="threshold")
    for given in (None, scores[None], np.tile(scores[None, :, None], 4)):
        for threshold in (0.5, None):
            padded = label(Masks(probs, given, valid[None]), threshold=threshold)
            tight = Masks(probs[:, :3], None if given is None else given[:, :3], valid[None, :3])
            np.testing.assert_array_equal(padded, label(tight, threshold=threshold))


def test_label_map_without_scores_takes_the_largest():
    probs = np.array([[[0.2, 0.6, 0.9]], [[0.4, 0.7, 0.8]]], np.float32)[None]
    found = Masks(probs, None, np.ones((1, 2), bool))
    assert ops.to_label_map(found).tolist() == [[[0, 2, 1]]]
    assert ops.to_label_map(found, threshold=None).tolist() == [[[2, 2, 1]]]


def test_label_map_with_a_score_a_mask_puts_the_best_on_top():
    probs = np.array([[[0.2, 0.6, 0.9]], [[0.4, 0.7, 0.8]]], np.float32)[None]
    found = Masks(probs, np.array([[0.9, 0.1]], np.float32), np.ones((1, 2), bool))
    assert ops.to_label_map(found).tolist() == [[[0, 1, 1]]]
    assert ops.to_label_map(found, threshold=None).tolist() == [[[2, 2, 1]]]


def test_label_map_with_class_scores_adds_up_masks():
    rng = np.random.default_rng(0)
    probs = rng.random((2, 5, 4, 6)).astype(np.float32)
    scores = rng.random((2, 5, 3)).astype(np.float32)
    valid = rng.random((2, 5)) < 0.7
    evidence = np.einsum("bm,bmc,bmhw->bchw", valid, scores, probs)
    found = Masks(probs, scores, valid)
    want = evidence.argmax(1) + 1
    np.testing.assert_array_equal(ops.to_label_map(found, threshold=None), want)
    cut = float(np.median(evidence.max(1)))
    np.testing.assert_array_equal(
        ops.to_label_map(found, threshold=cut), np.where(evidence.max(1) > cut, want, 0)
    )


@pytest.mark.parametrize("threshold", [0.5, None])
def test_no_valid_mask_is_all_background(threshold):
    probs = np.ones((1, 2, 3, 3), np.float32)
    for scores in (None, np.ones((1, 2), np.float32), np.ones((1, 2, 4), np.float32)):
        found = Masks(probs, scores, np.zeros((1, 2), bool))
        assert not np.asarray(ops.to_label_map(found, threshold=threshold)).any()
    empty = Masks(np.zeros((1, 0, 3, 3), np.float32), None, np.zeros((1, 0), bool))
    assert not np.asarray(ops.to_label_map(empty, threshold=threshold)).any()


def test_iou_of_pairs():
    one, other = blobs(3), blobs(4, seed=1)
    other[2] = False
    both = (one[:, None] & other).sum((2, 3))
    want = both / (one[:, None] | other).sum((2, 3))
    sharp = (x.astype(np.float32) for x in (one, other))
    np.testing.assert_allclose(ops.soft_iou(*sharp), want, rtol=1e-6)
    empty = other[2:3].astype(np.float32)
    assert ops.soft_iou(empty, empty).tolist() == [[0.0]]
    p, q = one * 0.5, other * 0.25
    inter = np.einsum("mhw,nhw->mn", p, q)
    total = p.sum((1, 2))[:, None] + q.sum((1, 2)) - inter
    np.testing.assert_allclose(ops.soft_iou(p, q), inter / total, rtol=1e-5)


def test_proposals_that_are_padding_or_empty_never_match():
    masks, proposals = blobs(3), blobs(6, seed=4)
    settings = {"iom_threshold": 0.4, "min_cover": 0.05, "iou_threshold": -1.0}
    want = ops.match_proposals(masks, proposals, **settings)
    more = np.concatenate([proposals, np.ones((1, 12, 15), bool), np.zeros((1, 12, 15), bool)])
    valid = np.arange(8) != 6
    got = ops.match_proposals(masks, more, **settings, valid=valid)
    np.testing.assert_array_equal(got.masks, want.masks)
    without = ops.match_proposals(masks, more, **settings)
    assert (np.asarray(without.masks) != want.masks).any()
    none = ops.match_proposals(masks, proposals, **settings, valid=np.zeros(6, bool))
    np.testing.assert_array_equal(none.masks, masks)


def test_small_merges_fall_back_to_the_union():
    masks = np.zeros((2, 20, 20), np.float32)
    masks[0, 4:12, 4:12] = 1
    masks[1, 6:8, 6:16] = 1
    even = np.array([0.5, 0.5], np.float32)
    np.testing.assert_array_equal(ops.merge_sentences(masks, even, (20, 20)), masks.any(0))
    lost = ops.merge_sentences(masks, np.array([0.4, 0.6], np.float32), (20, 20))
    np.testing.assert_array_equal(lost, masks.any(0))  # mask 1 alone is 5 % of the image
    first = ops.merge_sentences(masks, np.array([0.6, 0.4], np.float32), (20, 20))
    np.testing.assert_array_equal(first, masks[0] > 0)
    nothing = ops.merge_sentences(masks, np.zeros(2, np.float32), (10, 10))
    assert np.asarray(nothing).sum() > 0


def test_many_classes_are_compared_in_parts(monkeypatch):
    rng = np.random.default_rng(5)
    masks = Masks(
        jnp.asarray(rng.random((2, 3, 7, 5)), jnp.float32),
        jnp.asarray(rng.random((2, 3, 4)), jnp.float32),
        jnp.asarray([[True, True, False], [True, True, True]]),
    )
    whole = ops.to_label_map(masks, threshold=0.9)
    for room in (1, 2 * 4 * 5 * 3):
        monkeypatch.setattr(ops, "_EVIDENCE", room)
        np.testing.assert_array_equal(ops.to_label_map(masks, threshold=0.9), whole)

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.ops.mask_losses import (
    dice_loss,
    focal_loss,
    masked_mean,
    min_max_rows,
    pairwise_dice,
    pairwise_focal,
    segment_iou,
    smooth_l1,
)
from openseg_jax.ops.resize import resize

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 5, 6, 8)).astype(np.float32) * 3
TARGET = RNG.random((2, 3, 6, 8)) < 0.4


def test_segment_iou_is_that_of_enlarged_proposals():
    proposals = RNG.random((2, 4, 6, 8)).astype(np.float32)
    segments = RNG.random((2, 3, 20, 24)) < 0.5
    large = resize(proposals, (20, 24))
    np.testing.assert_allclose(
        segment_iou(segments, proposals), segment_iou(segments, large), rtol=1e-5
    )
    # Shrinking is the same rule.
    small = resize(proposals, (3, 4))
    np.testing.assert_allclose(
        segment_iou(segments[..., :3, :4], proposals),
        segment_iou(segments[..., :3, :4], small),
        rtol=1e-5,
    )


def test_empty_segments_and_proposals_overlap_nothing():
    assert not segment_iou(np.zeros((1, 4, 4), bool), np.zeros((2, 4, 4), np.float32)).any()
    assert not segment_iou(np.zeros((1, 4, 4), bool), np.zeros((2, 2, 2), np.float32)).any()


def test_padding_changes_no_row():
    values = RNG.random((3, 5)).astype(np.float32)
    padded = np.concatenate([values, np.full((3, 2), 9.0, np.float32)], axis=1)
    valid = np.arange(7) < 5
    found = min_max_rows(padded, valid)
    np.testing.assert_allclose(found[:, :5], min_max_rows(values), rtol=1e-6)
    assert not found[:, 5:].any()
    assert not np.asarray(min_max_rows(padded, np.zeros(7, bool))).any()
    assert not np.asarray(min_max_rows(np.full((1, 4), 0.3, np.float32))).any()


def test_smooth_l1_and_its_mean():
    a, b = jnp.array([0.0, 0.0, 0.0]), jnp.array([0.5, 1.0, 3.0])
    np.testing.assert_allclose(smooth_l1(a, b), [0.125, 0.5, 2.5])
    np.testing.assert_allclose(smooth_l1(a, b, beta=0.5), [0.25, 0.75, 2.75])
    mean, count = masked_mean(b, jnp.array([True, False, True]))
    assert float(mean) == 1.75 and float(count) == 2
    mean, count = masked_mean(b, jnp.zeros(3, bool))
    assert float(mean) == 0 and float(count) == 0


def test_mask_losses_match_float64():
    logits, target = LOGITS[:, :3].astype(np.float64), TARGET.astype(np.float64)
    p = 1 / (1 + np.exp(-logits))
    focal = np.where(TARGET, -0.25 * (1 - p) ** 2 * np.log(p), -0.75 * p**2 * np.log(1 - p)).mean(
        (-2, -1)
    )
    np.testing.assert_allclose(focal_loss(LOGITS[:, :3], TARGET), focal, rtol=1e-5)
    both, sums = (p * target).sum((-2, -1)), (p + target).sum((-2, -1))
    np.testing.assert_allclose(
        dice_loss(LOGITS[:, :3], TARGET), 1 - (2 * both + 1) / (sums + 1), rtol=1e-5
    )


def test_pairs_are_the_losses_of_each_pair():
    for pairs, single in ((pairwise_focal, focal_loss), (pairwise_dice, dice_loss)):
        found = pairs(LOGITS, TARGET)
        assert found.shape == (2, 3, 5)
        for k in range(3):
            want = single(LOGITS, np.broadcast_to(TARGET[:, k : k + 1], LOGITS.shape))
            np.testing.assert_allclose(found[:, k], want, rtol=1e-5)


def test_gradients_stay_finite_at_extreme_logits():
    grad = jax.grad(lambda x: focal_loss(x, TARGET).sum() + dice_loss(x, TARGET).sum())
    assert np.isfinite(grad(jnp.asarray(LOGITS[:, :3]) * 1e4)).all()

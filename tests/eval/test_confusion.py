"""Confusion matrices and mIoU against a plain per-pixel count."""

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.eval import confusion


def slow_matrix(truth, predicted, num_classes, ignore):
    counts = np.zeros((num_classes, num_classes), np.int64)
    for t, p in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        if t != ignore:
            counts[t, p] += 1
    return counts


def slow_miou(truth, predicted, num_classes, ignore, convention):
    counted = truth != ignore
    values = []
    for c in range(num_classes):
        t, p = (truth == c) & counted, (predicted == c) & counted
        union = (t | p).sum()
        iou = (t & p).sum() / union if union else 0.0
        take = {"gt": t.any(), "union": union > 0, "all": True}[convention]
        if take:
            values.append(iou)
    return np.mean(values) if values else float("nan")


def random_maps(seed, num_classes=7, absent=(2,), never=(5,)):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, num_classes, (3, 17, 13))
    predicted = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 7, truth.shape))
    for c in absent:
        truth[truth == c] = 0
    for c in never:
        truth[truth == c], predicted[predicted == c] = 1, 1
    truth[rng.random(truth.shape) < 0.1] = 255
    return truth, predicted


@pytest.mark.parametrize("seed", range(4))
def test_matrix_and_means_against_a_plain_count(seed):
    truth, predicted = random_maps(seed)
    matrix = confusion.confusion_matrix(truth, predicted, 7)
    np.testing.assert_array_equal(matrix, slow_matrix(truth, predicted, 7, 255))
    assert matrix.dtype == np.int64
    for convention in confusion.CONVENTIONS:
        want = slow_miou(truth, predicted, 7, 255, convention)
        assert confusion.miou(matrix, convention) == pytest.approx(want, rel=1e-12)


def test_conventions_differ_where_classes_are_absent():
    matrix = confusion.confusion_matrix(*random_maps(0), 7)
    by_name = confusion.metrics(matrix).miou
    assert by_name["gt"] > by_name["union"] > by_name["all"]


def test_accuracies():
    matrix = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    found = confusion.metrics(matrix)
    assert found.pixel_accuracy == pytest.approx(9 / 12)
    assert found.mean_accuracy == pytest.approx((6 / 8 + 3 / 4) / 2)
    assert found.fwiou == pytest.approx((8 * 6 / 9 + 4 * 3 / 6) / 12)
    assert np.isnan(found.iou[2])


def test_background_left_out_keeps_misses_unless_told():
    matrix = np.array([[50, 4, 1], [10, 20, 0], [3, 2, 30]])
    honest = confusion.metrics(matrix, ignore_background=True)
    flattering = confusion.metrics(matrix, ignore_background=True, ignore_bg_drops_col=True)
    np.testing.assert_allclose(honest.iou, [20 / 32, 30 / 35])
    np.testing.assert_allclose(flattering.iou, [20 / 22, 30 / 32])
    assert len(confusion.metrics(matrix).iou) == 3


def test_ten_billion_pixels_stay_exact():
    matrix = np.full((2, 2), 2**33 + 1, np.int64)
    assert int(confusion.metrics(matrix).truth[0]) == 2**34 + 2


def test_nothing_to_count_is_nan_not_zero():
    empty = confusion.confusion_matrix(np.zeros((0, 4), int), np.zeros((0, 4), int), 3)
    assert np.isnan(confusion.miou(empty)) and np.isnan(confusion.metrics(empty).pixel_accuracy)
    ignored = confusion.confusion_matrix(np.full((4, 4), 255), np.full((4, 4), 77), 3)
    assert ignored.sum() == 0


def test_mistakes_are_named():
    ones = np.ones((2, 2), int)
    with pytest.raises(UserError, match=r"truth: expected class ids in \[0, 1\)"):
        confusion.confusion_matrix(ones, ones, 1)
    with pytest.raises(UserError, match="predicted: expected class ids"):
        confusion.confusion_matrix(ones, ones * 9, 5)
    with pytest.raises(UserError, match="the shape of the truth"):
        confusion.confusion_matrix(ones, np.ones((3, 2), int), 5)
    with pytest.raises(UserError, match="did you mean 'union'"):
        confusion.miou(np.eye(2, dtype=int), "unions")
    with pytest.raises(UserError, match="matrix"):
        confusion.metrics(np.ones((2, 3), int))

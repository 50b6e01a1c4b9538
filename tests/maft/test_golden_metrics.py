"""MAFT golden: the confusion matrix, the means of detectron2, seen and unseen classes."""

import numpy as np
import pytest

from openseg_jax.eval import confusion
from tests import golden

FILES = golden.cases("maft", "metrics")
CASES = [(p, name) for p in FILES for name in golden.load(p)[1]["cases"]]


def matrix_of(path, name):
    """Ours has rows for the truth, and no row or column for ignored pixels."""
    arrays, meta = golden.load(path)
    case = meta["cases"][name]
    size = case["C"]
    unseen = np.isin(np.arange(size), case["unseen"])
    return arrays[f"in/{name}.conf"][:size, :size].T, unseen, case


def near(percent):
    value = float("nan") if percent is None else percent / 100
    return pytest.approx(value, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("path, name", CASES)
def test_maft_golden_metrics_means(path, name):
    matrix, _, case = matrix_of(path, name)
    found, want = confusion.metrics(matrix), case["generalized"]
    assert found.miou["union"] == near(want["mIoU"])
    assert found.fwiou == near(want["fwIoU"])
    assert found.mean_accuracy == near(want["mACC"])
    assert found.pixel_accuracy == near(want["pACC"])
    for i, iou in enumerate(found.iou):
        # Ours is 0 for a class that is predicted but nowhere true, where theirs has none.
        assert (iou if found.truth[i] else np.nan) == near(want[f"IoU-c{i}"])


@pytest.mark.parametrize("path, name", CASES)
def test_maft_golden_metrics_of_splits(path, name):
    matrix, unseen, case = matrix_of(path, name)
    found, want = confusion.split_metrics(matrix, unseen, "union"), case["generalized"]
    assert found.seen == near(want["mIoU-base"])
    assert found.unseen == near(want["mIoU-unbase"])
    assert found.harmonic == near(want["hIoU-base"])
    assert found.seen_accuracy == near(want["pAcc-base"])
    assert found.unseen_accuracy == near(want["pAcc-unbase"])
    want = case["seen_unseen"]
    found = confusion.split_metrics(matrix, unseen, "all", parity="reference")
    assert found.seen == near(want["seen_IoU"])
    assert found.unseen == near(want["unseen_IoU"])
    assert found.harmonic == near(want["harmonic mean"])


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_maft_golden_metrics_from_scores(path):
    arrays, _ = golden.load(path)
    scores, truth = arrays["in/from_scores.scores"], arrays["in/from_scores.gt_u8"]
    found = confusion.confusion_matrix(truth, scores.argmax(axis=0), len(scores))
    np.testing.assert_array_equal(found.T, arrays["out/from_scores.conf"][:-1, :-1])


def test_maft_golden_metrics_can_fail():
    """The transposed matrix and the mean over all classes give other numbers."""
    assert CASES
    turned, other = False, False
    for path, name in CASES:
        matrix, unseen, case = matrix_of(path, name)
        want = case["generalized"]
        turned |= confusion.metrics(matrix.T).mean_accuracy != near(want["mACC"])
        other |= confusion.split_metrics(matrix, unseen, "gt").unseen != near(want["mIoU-unbase"])
    assert turned and other

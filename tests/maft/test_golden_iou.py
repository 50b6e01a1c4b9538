"""MAFT golden: soft IoU of proposals, its row-wise min-max, and SmoothL1."""

import numpy as np
import pytest

from openseg_jax.ops.mask_losses import masked_mean, min_max_rows, segment_iou, smooth_l1
from tests import golden

CASES = golden.cases("maft", "iou_units")


def rows(arrays, target):
    """Each row of the golden is an image with one segment."""
    return np.asarray(segment_iou(arrays[target][:, None], arrays["in/pred"]))[:, 0]


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
@pytest.mark.parametrize("target, out", [("target", "iou"), ("target_same_res", "iou_same_res")])
def test_maft_golden_iou(path, target, out):
    arrays, _ = golden.load(path)
    np.testing.assert_allclose(rows(arrays, f"in/{target}"), arrays[f"out/{out}"], atol=1e-6)


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_maft_golden_iou_min_max(path):
    arrays, _ = golden.load(path)
    found = min_max_rows(rows(arrays, "in/target"))
    np.testing.assert_allclose(found, arrays["out/iou_minmax"], atol=1e-5)
    loss, count = masked_mean(smooth_l1(arrays["in/probs"], found), np.ones((1, 1), bool))
    assert count == arrays["in/probs"].size
    np.testing.assert_allclose(loss, arrays["out/smoothl1_mean"], rtol=1e-4)


def test_maft_golden_iou_can_fail():
    """Proposals cut at ½, as mIoU would have them, give other targets."""
    assert CASES
    for path in CASES:
        arrays, _ = golden.load(path)
        hard = arrays | {"in/pred": (arrays["in/pred"] > 0.5).astype(np.float32)}
        wrong = np.abs(rows(hard, "in/target") - arrays["out/iou"]).max()
        assert wrong > 1e-2
        wrong = np.abs(min_max_rows(arrays["out/iou"].T).T - arrays["out/iou_minmax"]).max()
        assert wrong > 1e-2

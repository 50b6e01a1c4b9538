"""CaR golden: mIoU, accuracies, referring IoU and the painted label maps (exact)."""

import numpy as np
import pytest

from openseg_jax.eval import confusion
from openseg_jax.eval.record import to_cells
from openseg_jax.eval.referring import row_of
from tests import golden

CASES = golden.cases("car", "eval")


def matrix_of(path):
    arrays, meta = golden.load(path)
    classes = meta["n_class"]
    # The reference counts every true id below n_class and forgets all others.
    found = confusion.confusion_matrix(
        arrays["in/gt"], arrays["in/pred"], classes, outside="ignore"
    )
    return arrays, found


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_car_golden_eval_means(path):
    arrays, matrix = matrix_of(path)
    found = confusion.metrics(matrix)
    want = {
        name: float(arrays[f"out/{name}"]) for name in ("miou", "pixel_acc", "mean_acc", "fwiou")
    }
    got = {
        "miou": found.miou["gt"],
        "pixel_acc": found.pixel_accuracy,
        "mean_acc": found.mean_accuracy,
        "fwiou": found.fwiou,
    }
    assert got == pytest.approx(want, rel=1e-12)
    np.testing.assert_allclose(np.nan_to_num(found.iou), arrays["out/class_iou"], rtol=1e-12)


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_car_golden_eval_without_background(path):
    arrays, matrix = matrix_of(path)
    flags = {"ignore_background": True, "ignore_bg_drops_col": True}
    assert confusion.miou(matrix, "gt", **flags) == pytest.approx(
        float(arrays["out/miou_ignore_bg"]), rel=1e-12
    )


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_car_golden_eval_region(path):
    arrays, _ = golden.load(path)
    truth, found = ((arrays[f"in/ref_{side}"] > 0).astype(int) for side in ("gt", "pred"))
    matrix = confusion.confusion_matrix(truth, found, 2, ignore=None)
    row = row_of("object", (), to_cells(matrix))
    want = (int(arrays["out/ref_inter"]), int(arrays["out/ref_union"]))
    assert (row.intersection, row.union) == want
    assert row.iou == pytest.approx(float(arrays["out/ref_iou"]), rel=1e-6)


def test_car_golden_eval_can_fail():
    """A background column that is kept, and the transposed matrix, give other numbers."""
    assert CASES
    kept, turned = False, False
    for path in CASES:
        arrays, matrix = matrix_of(path)
        want = float(arrays["out/miou_ignore_bg"])
        kept |= abs(confusion.miou(matrix, ignore_background=True) - want) > 1e-6
        turned |= abs(confusion.metrics(matrix.T).mean_accuracy - arrays["out/mean_acc"]) > 1e-6
    assert kept and turned

"""CaR golden: the counts that the referring evaluation keeps give the published overlap."""

import numpy as np
import pytest

from openseg_jax.eval import referring
from openseg_jax.eval.confusion import confusion_matrix
from openseg_jax.eval.record import to_cells
from tests import golden

CASES = golden.cases("car", "eval")


def row_of(arrays, *, swap=False):
    truth, found = ((arrays[f"in/ref_{name}"] > 0).astype(int) for name in ("gt", "pred"))
    if swap:
        truth, found = 1 - truth, 1 - found
    cells = to_cells(confusion_matrix(truth, found, 2, ignore=None))
    return referring.row_of("one", ("a",), cells)


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_car_golden_referring_overlap(path):
    arrays, _ = golden.load(path)
    row = row_of(arrays)
    assert row.intersection == int(arrays["out/ref_inter"])
    assert row.union == int(arrays["out/ref_union"])
    np.testing.assert_allclose(row.iou, float(arrays["out/ref_iou"]), rtol=1e-6)


def test_car_golden_referring_can_fail():
    """The overlap of the background is another number."""
    assert CASES
    for path in CASES:
        arrays, _ = golden.load(path)
        assert row_of(arrays, swap=True).iou != pytest.approx(
            float(arrays["out/ref_iou"]), rel=1e-6
        )

"""CaR golden: replacing masks by class-agnostic proposals."""

import jax
import numpy as np
import pytest

from openseg_jax.ops import masks as ops
from tests import golden

EACH = [
    pytest.param(path, case, id=f"{path.stem}-{case}")
    for path in golden.cases("car", "sam_match")
    for case in golden.load(path)[1]["cases"]
]

FORMS = {"device": jax.jit(ops.match_proposals), "host": ops.match_proposals}


def run(path, case, match=ops.match_proposals, **changes):
    arrays, meta = golden.load(path)
    names = ("iom_threshold", "min_cover", "iou_threshold")
    settings = {**dict(zip(names, meta["cases"][case], strict=True)), **changes}
    masks, proposals = arrays["in/pred_masks"] > 0, arrays["in/sam_masks"] > 0
    found = match(masks, proposals, **settings)
    return arrays, jax.device_get(found), masks.any(axis=(1, 2))


@pytest.mark.parametrize("match", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("path, case", EACH)
def test_car_golden_sam_match(path, case, match):
    arrays, found, filled = run(path, case, match)
    np.testing.assert_array_equal(found.masks, arrays[f"out/masks_{case}"] > 0)
    np.testing.assert_array_equal(found.union[filled], arrays[f"out/union_{case}"] > 0)
    np.testing.assert_allclose(found.overlap[filled], arrays[f"out/iom_{case}"], atol=1e-6)


@pytest.mark.skipif(not EACH, reason="the folder holds no matching cases")
def test_car_golden_sam_match_can_fail():
    differs = {"iom_threshold": False, "min_cover": False, "iou_threshold": False}
    changed = {"iom_threshold": 0.0, "min_cover": 2.0, "iou_threshold": -1.0}
    for one in EACH:
        path, case = one.values
        for name in differs:
            arrays, found, filled = run(path, case, **{name: changed[name]})
            differs[name] |= bool((found.masks != (arrays[f"out/masks_{case}"] > 0)).any())
            other = arrays[f"out/iom_{case}"]
            differs[name] |= bool(np.abs(found.overlap[filled] - other).max() > 1e-3)
    assert all(differs.values()), differs

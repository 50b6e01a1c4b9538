"""CaR golden: boxes on the patch grid (exact)."""

import numpy as np
import pytest

from openseg_jax.ops import boxes
from tests import golden

CASES = [p for p in golden.cases("car", "cam") if "out/box_mask" in golden.load(p)[0]]


def fraction_of(arrays) -> float:
    # Stored in float32; the reference uses the decimal number that the config spells.
    return float(str(arrays["in/clipes_threshold"].astype(np.float32)))


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_car_golden_box_masks(path):
    arrays, _ = golden.load(path)
    cams, want = arrays["out/cam_norm"], arrays["out/box_mask"] > 0.5
    got = boxes.box_masks(cams, fraction_of(arrays), border_quirk=True)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_car_golden_component_boxes(path):
    arrays, _ = golden.load(path)
    table = boxes.threshold_table(fraction_of(arrays))
    for k, cam in enumerate(arrays["out/cam_norm"]):
        if f"out/boxes_{k}" not in arrays:
            continue
        mask = np.asarray(boxes.foreground(cam, table))
        ends = np.array([cam.shape[1], cam.shape[0]] * 2) - 1
        got = np.unique(np.minimum(boxes.boxes_of(mask), ends), axis=0)
        # The reference lists hole contours and empty boxes too: only boxes that cover a cell count.
        want = np.unique(arrays[f"out/boxes_{k}"].reshape(-1, 4), axis=0)
        covering = want[(want[:, 2] > want[:, 0]) & (want[:, 3] > want[:, 1])]
        got = got[(got[:, 2] > got[:, 0]) & (got[:, 3] > got[:, 1])]
        missing = {tuple(b) for b in got} - {tuple(b) for b in covering}
        assert not missing
        union = np.zeros(cam.shape, bool)
        for x0, y0, x1, y1 in got:
            union[y0:y1, x0:x1] = True
        np.testing.assert_array_equal(union, arrays["out/box_mask"][k] > 0.5)


@pytest.mark.skipif(not CASES, reason="the folder holds no box masks")
def test_car_golden_box_masks_can_fail():
    wrong = {"whole boxes": False, "higher threshold": False}
    for path in CASES:
        arrays, _ = golden.load(path)
        cams, want = arrays["out/cam_norm"], arrays["out/box_mask"] > 0.5
        fraction = fraction_of(arrays)
        whole = np.asarray(boxes.box_masks(cams, fraction, border_quirk=False))
        higher = np.asarray(boxes.box_masks(cams, fraction + 0.3, border_quirk=True))
        wrong["whole boxes"] |= bool((whole != want).any())
        wrong["higher threshold"] |= bool((higher != want).any())
    assert all(wrong.values()), wrong

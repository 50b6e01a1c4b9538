"""CaR golden: label maps (exact) and the merge of referring sentences."""

import numpy as np
import pytest

from openseg_jax.ops import masks as ops
from tests import golden

EVAL = golden.cases("car", "eval")
TWO_PASS = golden.cases("car", "thing_stuff")
ONE_PASS = [p for p in golden.cases("car", "recurrence") if "out/label_map" in golden.load(p)[0]]
REFER = [p for p in golden.cases("car", "recurrence") if "out/merged_simple" in golden.load(p)[0]]


def painted(arrays, place, *, things_first=False):
    """Paints the two passes one over the other; `place` is the prefix of masks and scores."""
    label = None
    for kind in ("thing", "stuff") if things_first else ("stuff", "thing"):
        label = ops.paint_labels(
            arrays[f"{place}/{kind}_masks"],
            arrays[f"{place}/{kind}_scores"],
            arrays[f"in/{kind}_ids"],
            base=label,
        )
    return np.asarray(label)


@pytest.mark.parametrize("path", EVAL, ids=lambda p: p.stem)
def test_car_golden_label_painting_of_things_over_stuff(path):
    arrays, _ = golden.load(path)
    np.testing.assert_array_equal(painted(arrays, "in"), arrays["out/label_thing_stuff"])


@pytest.mark.parametrize("path", EVAL, ids=lambda p: p.stem)
def test_car_golden_label_painting_of_things_alone(path):
    arrays, _ = golden.load(path)
    # Without a stuff pass the reference takes the place in the list for the class.
    got = ops.paint_labels(arrays["in/thing_masks"], arrays["in/thing_scores"])
    np.testing.assert_array_equal(got, arrays["out/label_thing_only"])


@pytest.mark.parametrize("path", TWO_PASS, ids=lambda p: p.stem)
def test_car_golden_label_painting_of_two_passes(path):
    arrays, _ = golden.load(path)
    np.testing.assert_array_equal(painted(arrays, "out"), arrays["out/label"])


@pytest.mark.parametrize("path", ONE_PASS, ids=lambda p: p.stem)
def test_car_golden_label_painting_of_one_pass(path):
    arrays, _ = golden.load(path)
    want, scores = arrays["out/label_map"], arrays["out/final_scores"]
    shape = (len(scores), *want.shape)
    got = ops.paint_labels(golden.unpack(arrays["out/final_masks"], shape), scores)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("path", REFER, ids=lambda p: p.stem)
def test_car_golden_merge_of_sentences(path):
    arrays, _ = golden.load(path)
    scores, size = arrays["out/final_scores"], tuple(int(n) for n in arrays["out/merged_shape"])
    shape = (len(scores), *arrays["in/image"].shape[:2])
    masks = golden.unpack(arrays["out/final_masks"], shape)
    want = golden.unpack(arrays["out/merged_simple"], size)
    np.testing.assert_array_equal(ops.merge_sentences(masks, scores, size), want)


@pytest.mark.skipif(not EVAL, reason="the folder holds no painted label maps")
def test_car_golden_label_painting_can_fail():
    differs = {"stuff on top": False, "descending scores": False, "zero scores": False}
    for path in EVAL:
        arrays, _ = golden.load(path)
        want = arrays["out/label_thing_stuff"]
        differs["stuff on top"] |= bool((painted(arrays, "in", things_first=True) != want).any())
        turned = {k: 1 - v if k.endswith("scores") else v for k, v in arrays.items()}
        differs["descending scores"] |= bool((painted(turned, "in") != want).any())
        raised = {k: v + 1 if k.endswith("scores") else v for k, v in arrays.items()}
        differs["zero scores"] |= bool((painted(raised, "in") != want).any())
    assert all(differs.values()), differs

"""MAFT golden: stage 1's matching and losses, final and auxiliary predictions."""

import functools

import jax
import numpy as np
import pytest

from openseg_jax.tasks.maft_generator import Weights, criterion, match
from tests import golden
from tests.maft.training import segments

CASES = golden.cases("maft", "set_criterion")


@functools.cache
def case(path):
    arrays, about = golden.load(path)
    c = about["config"]
    weights = Weights(c["cost_class"], c["cost_mask"], c["cost_dice"], c["eos_coef"])
    truth = segments(arrays["in/labels_u8"], c["C"])
    assert [r.nonzero()[0].tolist() for r in truth["segment_valid"]] == about["targets"]
    predictions = list(zip(arrays["in/pred_logits"], arrays["in/pred_masks"], strict=True))
    both = jax.jit(lambda p: (criterion(*p, **truth, weights=weights),
                              match(*p, **truth, weights=weights)))  # fmt: skip
    return about, truth, weights, predictions, both


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_maft_golden_criterion(path):
    about, truth, _, predictions, both = case(path)
    for i, prediction in enumerate(predictions):
        losses, chosen = both(prediction)
        ending = f"_{i - 1}" if i else ""
        for name, theirs in (("classes", "ce"), ("mask", "mask"), ("dice", "dice")):
            want = about["losses"][f"loss_{theirs}{ending}"]
            np.testing.assert_allclose(losses[name], want, rtol=1e-4, err_msg=f"{name} {i}")
        for b, (queries, targets) in enumerate(about["matches"][i]):
            rows = truth["segment_valid"][b].nonzero()[0]
            found = {int(q): int(k) for k, q in enumerate(np.asarray(chosen)[b][rows])}
            assert found == dict(zip(queries, targets, strict=True))


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_maft_golden_criterion_can_fail(path):
    """Auxiliary predictions, and masks whose inside is out, give other losses."""
    about, _, _, predictions, both = case(path)
    other = both(predictions[1])[0]
    assert abs(float(other["classes"]) - about["losses"]["loss_ce"]) > 1e-2
    turned = both((predictions[0][0], -predictions[0][1]))[0]
    assert abs(float(turned["mask"]) - about["losses"]["loss_mask"]) > 1e-2

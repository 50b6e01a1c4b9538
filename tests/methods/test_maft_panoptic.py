"""Panoptic segments and instances from masks with class scores."""

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.methods.maft_panoptic import instances, panoptic


def drawn():
    probs = np.zeros((5, 4, 10), np.float32)
    probs[0, :, :4], probs[1, :, 5:7], probs[2, :, 8:] = 0.9, 0.8, 0.8
    probs[3, :, :5] = 0.7  # Loses all but one column of its five to mask 0.
    probs[4, :2, 4:5] = 1.0  # Best class is a background.
    scores = np.zeros((5, 4), np.float32)
    scores[0, 1], scores[1, 0], scores[2, 0], scores[3, 2], scores[4, 3] = 0.9, 0.8, 0.6, 0.7, 1.0
    return probs, scores, np.ones(5, bool)


def test_panoptic_joins_stuff_and_drops_what_is_covered():
    painted, found = panoptic(*drawn(), things=[1, 2], count=3)
    assert [(s.label, s.is_thing) for s in found] == [(1, True), (0, False)]
    assert (painted[:, :4] == 1).all() and (painted[:, 5:7] == 2).all()
    assert (painted[:, 8:] == 2).all() and (painted[:, 4] == 0).all()
    assert found[1].score == pytest.approx(0.8)


def test_panoptic_keeps_things_apart():
    painted, found = panoptic(*drawn(), count=3)
    assert [s.id for s in found] == [1, 2, 3] and (painted[:, 8:] == 3).all()
    _, few = panoptic(*drawn(), count=3, min_score=0.75)
    assert len(few) == 2
    _, loose = panoptic(*drawn(), count=3, overlap=0.1)
    assert len(loose) == 4
    probs, scores, valid = drawn()
    painted, none = panoptic(probs, scores, ~valid)
    assert not none and not painted.any()


def test_instances_are_ranked_by_score_and_certainty():
    found = instances(*drawn(), things=[0, 1], count=3)
    assert [(i.mask, i.label) for i in found] == [(0, 1), (1, 0), (2, 0)]
    assert found[0].score == pytest.approx(0.81) and found[0].pixels.sum() == 16
    assert len(instances(*drawn(), count=3, most=2)) == 2
    probs, scores, valid = drawn()
    assert not instances(0.4 * probs, scores, valid)


def test_a_batch_is_refused():
    probs, scores, valid = drawn()
    with pytest.raises(UserError, match="take one image out of the batch"):
        panoptic(probs[None], scores[None], valid[None])

import jax
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from openseg_jax.errors import UserError
from openseg_jax.ops.matching import match_segments


def test_matches_scipy_and_padding_changes_nothing():
    rng = np.random.default_rng(0)
    cost = rng.normal(size=(6, 4, 7)).astype(np.float32)
    valid = rng.random((6, 4)) < 0.6
    found = np.asarray(jax.jit(match_segments)(cost, valid))
    for b in range(6):
        _, want = linear_sum_assignment(cost[b][valid[b]])
        np.testing.assert_array_equal(found[b][valid[b]], want)
        assert len(set(found[b])) == 4


def test_any_leading_axes():
    cost = np.random.default_rng(1).normal(size=(2, 3, 2, 4)).astype(np.float32)
    valid = np.ones((2, 3, 2), bool)
    found = match_segments(cost, valid)
    assert found.shape == (2, 3, 2)
    np.testing.assert_array_equal(found[1, 2], match_segments(cost[1, 2], valid[1, 2]))


def test_too_many_segments_are_refused():
    with pytest.raises(UserError, match="at most 3"):
        match_segments(np.zeros((1, 4, 3), np.float32), np.ones((1, 4), bool))

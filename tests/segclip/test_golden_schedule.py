"""The published learning rate, step by step."""

import re

import numpy as np
import pytest

from openseg_jax.train.optim import make_schedule
from tests import golden

CURVE = re.compile(
    r"out/lr/warmup_cosine_T(?P<steps>\d+)_w0(?P<share>\d+)"
    r"(_start(?P<start>[\d.]+))?(_end(?P<end>[\d.]+))?"
)
CASES = golden.cases("segclip", "losses")


def curves(path):
    arrays, _ = golden.load(path)
    for name, want in arrays.items():
        match = CURVE.fullmatch(name)
        if match:
            steps, share = int(match["steps"]), float(f"0.{match['share']}")
            rest = {key: float(match[key] or 0) for key in ("start", "end")}
            yield want, {"peak": 1.0, "steps": steps, "warmup": share * steps, **rest}


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_learning_rates(path):
    found = list(curves(path))
    assert found
    for want, settings in found:
        got = make_schedule("cosine_from_one", **settings)(np.arange(len(want)))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
        # the wrong variant: steps counted from 0
        usual = make_schedule("cosine", **settings)
        other = np.array([float(usual(i)) for i in range(len(want))])
        assert np.abs(other - want).max() > 1e-2

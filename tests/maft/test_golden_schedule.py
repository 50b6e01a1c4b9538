"""MAFT golden: the learning rates of the published training log."""

import json

import numpy as np

from openseg_jax.train.optim import make_schedule
from tests import golden


def rates(**change):
    log = json.loads((golden.root() / "maft" / "lr_schedule.json").read_text())
    settings = {"peak": log["base_lr"], "steps": log["max_iter"], "warmup": log["warmup_iters"]}
    settings |= {"power": log["power"]} | change
    schedule = make_schedule("poly", **settings)
    steps, want = np.array(log["rows"]).T
    return np.array([float(schedule(int(i))) for i in steps]), want


def test_maft_golden_schedule():
    np.testing.assert_allclose(*rates(), rtol=1e-4)


def test_maft_golden_schedule_can_fail():
    found, want = rates(power=1.0)
    assert np.abs(found / want - 1).max() > 0.1

"""Twenty kills at random moments: no committed checkpoint is lost, no half of one is loaded."""

import random
import time

import jax
import numpy as np
import pytest

from openseg_jax.train.checkpoint import Checkpoints
from tests.train.processes import Farm, settings, train, until

pytestmark = pytest.mark.slow
KILLS = 20
KEEP = 2
TOY = settings(
    task__name="toy", checkpoint_every=1, optim__schedule="constant", optim__warmup=0,
    optim__weight_decay=((".*", 0.0),), keep=KEEP,
)  # fmt: skip


def names(folder):
    path = folder / "checkpoints"
    return [entry.name for entry in path.iterdir()] if path.is_dir() else []


def committed(folder):
    return sorted(int(name) for name in names(folder) if name.isdigit())


def halves(folder):
    return [name for name in names(folder) if "tmp" in name]


def final(folder, step):
    checkpoints = Checkpoints(folder / "checkpoints")
    state = checkpoints.restore_host(step)
    checkpoints.close()
    return state


def test_twenty_kills(tmp_path):
    farm, folder = Farm(tmp_path / "programs"), tmp_path / "killed"
    rng, log = random.Random(0), tmp_path / "log"
    known, torn = 0, 0
    for kill in range(KILLS):
        job = farm.start(log, *train(folder), *TOY, *settings(steps=10**6))
        until(lambda known=known: bool(committed(folder)) and committed(folder)[-1] > known, [job])
        time.sleep(rng.uniform(0.0, 0.3))
        if kill % 2:  # in the middle of a save
            until(lambda: bool(halves(folder)), [job])
        before = committed(folder)[-1]
        job.kill()
        assert job.wait() == -9
        if known:
            assert f"resumed at step {known}\n" in job.said()
        torn += bool(halves(folder))
        known = committed(folder)[-1]
        assert known >= before
        # Older ones than those that are kept may be in the middle of their removal.
        for step in committed(folder)[-KEEP:]:
            assert int(final(folder, step)["step"]) == step
        assert not halves(folder), "opening the folder should have removed them"
    assert torn >= KILLS // 4
    steps = known + 2
    assert farm.start(log, *train(folder), *TOY, *settings(steps=steps)).wait() == 0
    straight = tmp_path / "straight"
    whole = settings(steps=steps, checkpoint_every=10**6)
    assert farm.start(log, *train(straight), *TOY, *whole).wait() == 0
    farm.close()
    jax.tree.map(np.testing.assert_array_equal, final(folder, steps), final(straight, steps))

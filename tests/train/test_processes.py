"""Trainings in several processes: equal whatever their number, and whoever is killed."""

import json
import signal

import jax
import numpy as np
import pytest

from openseg_jax.inputs.pipeline import batches
from openseg_jax.train.checkpoint import Checkpoints
from tests.train.processes import Farm, Gate, losses, settings, until

pytestmark = pytest.mark.slow
STEPS = 8
# Parameters lie across processes, so that checkpoints and exports must gather them.
EACH = settings(steps=STEPS, checkpoint_every=2, log_every=1, mesh__data=1, mesh__fsdp=-1)


@pytest.fixture(scope="module")
def farm(tmp_path_factory):
    farm = Farm(tmp_path_factory.mktemp("programs"))
    yield farm
    farm.close()


@pytest.fixture(scope="module")
def unbroken(farm, tmp_path_factory):
    """Runs 1, 2 and 4 processes to the end; returns their folders."""
    folders = {}
    for count in (1, 2, 4):
        folders[count] = tmp_path_factory.mktemp("unbroken") / str(count)
        jobs = farm.together(count, folders[count], *EACH)
        assert [job.wait() for job in jobs] == [0] * count, jobs[0].said()
    return folders


def final(folder):
    checkpoints = Checkpoints(folder / "checkpoints")
    state = checkpoints.restore_host(STEPS)
    checkpoints.close()
    return state


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, final(one), final(other))
    assert losses(one) == losses(other)
    for file in (one / "model").iterdir():
        if file.suffix == ".safetensors":
            assert file.read_bytes() == (other / "model" / file.name).read_bytes()


def near(one, other):
    a, b = losses(one), losses(other)
    assert a.keys() == b.keys() == set(range(1, STEPS + 1))
    np.testing.assert_allclose([a[i] for i in sorted(a)], [b[i] for i in sorted(b)], rtol=1e-5)


def test_the_number_of_processes_changes_nothing(unbroken):
    near(unbroken[1], unbroken[2])
    near(unbroken[1], unbroken[4])
    assert "fsdp 2" in (unbroken[2] / "sharding.md").read_text()
    config = json.loads((unbroken[2] / "config.json").read_text())
    assert config["steps"] == STEPS and config["mesh"]["fsdp"] == -1


@pytest.mark.parametrize(("count", "victim"), [(2, 1), (4, 0)])
def test_one_is_killed_and_all_start_again(farm, unbroken, tmp_path, count, victim):
    folder = tmp_path / "killed"
    gate = Gate(tmp_path / "gate", 6)
    jobs = farm.together(count, folder, *EACH, gate=gate)
    until(lambda: gate.waiting() == count, jobs)
    assert max(losses(folder)) == 5
    lost = jobs.pop(victim)
    lost.kill()
    assert lost.wait() == -9
    gate.open()
    codes = [job.wait() for job in jobs]
    assert 0 not in codes
    if victim:
        # The coordinator lives: the others say what happened, and do not wait for the dead.
        (line,) = jobs[0].lines()
        assert codes[0] == 1 and "another process of this job was lost" in line
    jobs = farm.together(count, folder, *EACH)
    assert [job.wait() for job in jobs] == [0] * count, jobs[0].said()
    assert "resumed at step" in jobs[0].said()
    same(folder, unbroken[count])


def test_sigterm_to_one_stops_all_and_others_go_on(farm, unbroken, tmp_path):
    folder = tmp_path / "taken"
    gate = Gate(tmp_path / "gate", 3, notice=True)
    jobs = farm.together(2, folder, *EACH, gate=gate)
    until(lambda: gate.waiting() == 2, jobs)
    jobs[1].kill(signal.SIGTERM)
    assert [job.wait() for job in jobs] == [143, 143], jobs[0].said()
    (line,) = jobs[0].lines()
    assert "is saved; the same command goes on from there" in line and not jobs[1].lines()
    assert "Traceback" not in jobs[0].said() + jobs[1].said()
    done = max(losses(folder))
    assert 2 <= done < STEPS
    # one process with two devices on another mesh takes over, in the middle of the data
    (job,) = farm.together(
        1, folder, *settings(steps=STEPS, checkpoint_every=2, log_every=1), devices=2
    )
    assert job.wait() == 0 and f"resumed at step {done}" in job.said()
    near(folder, unbroken[1])


def test_each_process_keeps_its_rows_of_a_bad_batch(farm, tmp_path):
    folder = tmp_path / "diverged"
    more = settings(optim__learning_rate=1e38, optim__clip=None, optim__warmup=0, log_every=8)
    jobs = farm.together(2, folder, *EACH, *more)
    assert [job.wait() for job in jobs] == [2, 2], jobs[0].said()
    files = [np.load(path) for path in sorted(folder.glob("bad_batch_*.npz"))]
    step = int(files[0]["step"])
    assert f"at step {step};" in jobs[0].lines()[0] and [x["rows"].tolist() for x in files] == [
        [0, 1, 2, 3], [4, 5, 6, 7],
    ]  # fmt: skip
    from openseg_jax.configs.miniature_clip import get_config

    from openseg_jax.train import setup

    data = batches(setup.build(get_config("tiny")).source, 8, shuffle=False)
    for _ in range(step):
        want = next(data)
    for name, rows in want.items():
        got = np.concatenate([file[f"batch/{name}"] for file in files])
        np.testing.assert_array_equal(got, rows)

"""Two real processes on loopback: stopped on request, gone on with, ended well."""

import json
import time

import pytest

from launch import cli

pytestmark = pytest.mark.slow


@pytest.fixture
def launch(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OPENSEG_LAUNCH_HOME", str(tmp_path / "records"))

    def call(*argv, code=0):
        capfd.readouterr()
        got = cli.main(["local", "--name", "two", *argv])
        text = "".join(capfd.readouterr())
        assert got == code, text
        return text

    yield call
    cli.main(["local", "--name", "two", "--stop"])


def test_a_run_is_stopped_and_goes_on(tmp_path, launch):
    log = tmp_path / "openseg_runs" / "two" / "log.txt"
    work = tmp_path / "work"
    train = ("--", "train", "--config", "miniature_clip:tiny", "--workdir", str(work))
    launch("--processes", "2", *train, "--set", "steps=1000000")
    end = time.monotonic() + 500
    while "step 1/" not in (log.read_text() if log.exists() else ""):
        assert time.monotonic() < end and "ended" not in log.read_text(), log.read_text()
        time.sleep(0.2)
    assert "running" in launch("--status")
    assert ": stopped" in launch("--stop")
    assert "ended with code 143" in launch("--status")
    saved = max(int(path.name) for path in (work / "checkpoints").iterdir() if path.name.isdigit())
    assert saved >= 1

    steps = saved + 2
    said = launch("--processes", "2", "--watch", *train, "--set", f"steps={steps}")
    assert f"resumed at step {saved}" in said and "ended with code 0" in said
    rows = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows) == steps
    # The second process said what it had to say in a log of its own.
    assert (log.parent / "log_1.txt").exists()
    launch("--delete")
    assert not log.exists() and (work / "checkpoints").exists()


def test_a_mistake_ends_all_processes(tmp_path, launch):
    train = ("--", "train", "--config", "miniature_clip:tiny", "--workdir", str(tmp_path / "w"))
    launch("--processes", "2", "--watch", *train, "--set", "init=no-such-model", code=2)

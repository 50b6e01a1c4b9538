"""Killed in the middle, and run again: what is whole is kept, the result is the same."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from openseg_jax.data.prepare import label_maps, run, work
from openseg_jax.data.prepare.run import prepare
from openseg_jax.data.prepare.verify import verify

from openseg_jax.errors import UserError
from openseg_jax.inputs.labelled_set import open_set
from tests.data import label_archives


def stop_after(monkeypatch, count):
    """Presses Ctrl-C after so many label maps."""
    do, done = work.do, []

    def stopping(where, job):
        if len(done) == count:
            raise KeyboardInterrupt
        done.append(job.name)
        return do(where, job)

    monkeypatch.setattr(work, "do", stopping)
    monkeypatch.setattr(work.pool, "_CHUNK", 1)


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A root where preparing 8 pictures was interrupted after 5."""
    truth = label_archives.ade(tmp_path, 8)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            prepare("ade", tmp_path, workers=1)
    assert (tmp_path / "prepared" / ".ade.partial").is_dir()
    return tmp_path, truth


def test_an_interrupted_run_goes_on(stopped):
    root, truth = stopped
    with pytest.raises(UserError, match="was interrupted; run openseg data prepare ade"):
        verify("ade", root)
    done = prepare("ade", root, workers=1)
    assert (done.count, done.made) == (8, 3)
    found = open_set("ade", root)
    for i, item in enumerate(found.items):
        np.testing.assert_array_equal(found.read(i)[1], truth[item.name])
    resumed = content(done.folder)
    assert resumed == content(prepare("ade", root, workers=1, again=True).folder)
    assert [p.name for p in (root / "prepared").iterdir()] == ["ade"]


@pytest.mark.parametrize("damage", ["cut", "gone", "journal", "stray", "source", "nonsense"])
def test_what_is_not_whole_is_made_again(damage, stopped):
    root, truth = stopped
    partial = root / "prepared" / ".ade.partial"
    label = partial / "labels" / "ADE_val_00000002.png"
    made = 4
    if damage == "cut":
        label.write_bytes(label.read_bytes()[:-3])
    elif damage == "gone":
        label.unlink()
    elif damage == "journal":  # killed in the middle of a line
        journal = partial / "done.jsonl"
        journal.write_text(journal.read_text()[:-20])
    elif damage == "nonsense":
        with (partial / "done.jsonl").open("a") as file:
            file.write('7\nnull\n{"name": 3}\n')
        made = 3
    elif damage == "stray":
        (partial / "labels" / "other.png").write_bytes(b"")
        made = 3
    else:
        path = next((root / "unpacked").rglob("annotations/validation/ADE_val_00000002.png"))
        changed = np.full(truth["ADE_val_00000002"].shape, 7)
        path.write_bytes(label_archives.grey_png(changed))
        truth["ADE_val_00000002"] = changed - 1
    done = prepare("ade", root, workers=1)
    assert (done.count, done.made) == (8, made)
    found = open_set("ade", root)
    for i, item in enumerate(found.items):
        np.testing.assert_array_equal(found.read(i)[1], truth[item.name])
    assert len(list((done.folder / "labels").iterdir())) == 8


def test_a_first_try_and_then_all(tmp_path):
    label_archives.ade(tmp_path, 5)
    assert prepare("ade", tmp_path, workers=1, limit=2).count == 2
    (problem,) = verify("ade", tmp_path, workers=1).problems
    assert "prepared with --limit 2); run openseg data prepare ade" in problem
    assert prepare("ade", tmp_path, workers=1, limit=2).was_there
    done = prepare("ade", tmp_path, workers=1)
    assert (done.count, done.was_there) == (5, False)
    assert prepare("ade", tmp_path, limit=2).was_there  # more than asked for is there


def test_two_runs_at_once(tmp_path, monkeypatch):
    label_archives.ade(tmp_path)
    make = label_maps.labels_of_layout

    def inside(job):
        with pytest.raises(UserError, match="another run is at work"):
            prepare("ade", tmp_path, workers=1)
        return make(job)

    chosen = run.recipe("ade")
    monkeypatch.setattr(work, "_recipe", lambda name: run.dataclasses.replace(chosen, make=inside))
    assert prepare("ade", tmp_path, workers=1).count == 3


def test_what_a_killed_run_was_unpacking_is_not_read_and_goes(tmp_path):
    label_archives.ade(tmp_path)
    prepare("ade", tmp_path, workers=1)
    folder = tmp_path / "unpacked" / "ADEChallengeData2016"
    left = folder.with_name(".ADEChallengeData2016.abc123")
    folder.rename(left)
    shutil.rmtree(tmp_path / "prepared")
    next(left.rglob("annotations/validation/*2.png")).unlink()
    assert prepare("ade", tmp_path, workers=1).count == 3
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.slow
def test_killed_processes(tmp_path):
    """A real kill -9 of the command, with two workers, until the work is done."""
    truth = label_archives.ade(tmp_path, 400)
    command = [
        sys.executable, "-m", "openseg_jax.cli.main", "data", "prepare", "ade", "--root",
        str(tmp_path), "--workers", "2",
    ]  # fmt: skip
    journal = tmp_path / "prepared" / ".ade.partial" / "done.jsonl"
    process = subprocess.Popen(command, start_new_session=True)

    def lines():
        try:
            return len(journal.read_text().splitlines())
        except FileNotFoundError:  # not there yet, or done already
            return 0

    while process.poll() is None and lines() <= 40:
        time.sleep(0.005)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = lines() if journal.exists() else 400
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert before == 400 or "by a run before" in out
    found = open_set("ade", tmp_path)
    assert len(found) == 400
    for i in (0, 41, 399):
        np.testing.assert_array_equal(found.read(i)[1], truth[found.items[i].name])
    problems = verify("ade", tmp_path, workers=2).problems
    assert len(problems) == 1 and "400 items, but" in problems[0]
    assert json.loads((tmp_path / "prepared/ade/dataset.json").read_text())["count"] == 400

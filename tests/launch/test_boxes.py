"""GPU boxes, this one and one behind ssh, with programs that stand for the real ones."""

import shutil

import pytest

from launch.run import ROOT
from tests.launch.cloud import Cloud
from tests.launch.test_tpu_vm import wait_for

PINS = ROOT / "launch" / "environments" / "py312-cuda12.txt"
COMMAND = (
    "--",
    "train",
    "--config",
    "miniature_clip:tiny",
    "--workdir",
    "runs/a",
    "--set",
    "name=a b",
)


@pytest.fixture(params=["here", "there"])
def box(request, tmp_path, monkeypatch, capfd):
    """Returns the cloud, the box's home folder and the options that name it."""
    cloud = Cloud(tmp_path, PINS, monkeypatch, capfd)
    cloud.program("nvidia-smi", '#!/bin/sh\necho "GPU 0: one"\n')
    home = tmp_path / "home"
    if request.param == "there":
        home = tmp_path / "box"
        cloud.program("ssh", f'#!/bin/sh\ncd {home} && HOME={home} exec bash -c "$2"\n')
        cloud.program("scp", f'#!/bin/sh\nexec cp "$2" "$3" "$4" {home}/"${{5#*:}}"\n')
    shutil.copytree(tmp_path / "image", home, dirs_exist_ok=True)
    return cloud, home, ("--host", "me@box") if request.param == "there" else ()


def test_a_run_on_a_box(box):
    cloud, home, where = box
    run = ("gpu", "--name", "big", *where)
    said = cloud.launch(*run, *COMMAND)
    assert "GPU 0: one" in said and ": started" in said
    calls = home / "openseg_calls.jsonl"
    wait_for(calls.exists)
    wait_for(lambda: ": ended with code 0" in cloud.launch(*run, "--status"))
    assert '"../runs/a", "--set", "name=a b"], "cuda,cpu"' in calls.read_text()
    assert "--distributed" not in calls.read_text()
    # What a training left must survive --delete; what can be made again need not.
    kept = home / "openseg_runs" / "big" / "runs" / "a"
    kept.mkdir(parents=True)
    said = cloud.launch("gpu", "--name", "big", "--delete")
    assert "kept in" in said and "rented box costs" in said
    assert kept.exists() and not (kept.parents[1] / "env").exists()


def test_watching_returns_the_commands_code(box):
    cloud, _, where = box
    cloud.ends_with("2")
    said = cloud.launch("gpu", "--name", "big", *where, "--watch", *COMMAND, code=2)
    assert "trained" in said and "ended with code 2" in said


def test_a_box_without_a_gpu_is_an_error_before_anything_is_installed(box):
    cloud, home, where = box
    cloud.program("nvidia-smi", "#!/bin/sh\necho no driver >&2; exit 9\n")
    said = cloud.launch("gpu", "--name", "big", *where, *COMMAND, code=9)
    assert "no driver" in said and not (home / "openseg_runs" / "big" / "machine.sh").exists()

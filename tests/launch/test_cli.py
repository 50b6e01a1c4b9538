"""The command line: its table, its mistakes, what it remembers, and what it checks."""

import shutil
import subprocess

import pytest

from launch import checks, cli, records
from launch.accelerators import accelerator
from launch.command import Command
from launch.run import Run
from openseg_jax.errors import UserError
from tests.launch.scripts import dry

TRAIN = ("--", "train", "--config", "miniature_clip:tiny", "--workdir", "gs://b/r")
PLACE = ("--zone", "z", "--project", "p")


@pytest.fixture(autouse=True)
def no_records(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENSEG_LAUNCH_HOME", str(tmp_path / "records"))
    # No tool of a cloud or a cluster, whatever this machine has.
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("git", "bash"):
        (tools / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(tools))


def complaint(capsys, *argv):
    assert cli.main(list(argv)) == 2
    error = capsys.readouterr().err
    assert error.startswith("launch: ") and error.count("\n") == 1
    return error


def test_the_table_is_short(capsys):
    assert cli.main([]) == 2 and cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for word in ("tpu-vm", "gke", "slurm", "gpu", "local", "--delete", "--dry-run", "README"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("target", ["tpu-vm", "gke", "slurm", "gpu", "local"])
def test_help_fits_a_screen(target, capsys):
    with pytest.raises(SystemExit):
        cli.main([target, "--help"])
    text = capsys.readouterr().out
    assert "typical: python -m launch" in text and len(text.splitlines()) <= 60


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["tpuvm"], "did you mean 'tpu-vm'"),
        (["tpu-vm", "--name", "My_Run", *PLACE, "--type", "v4-8", *TRAIN], "try my-run"),
        (["tpu-vm", "--name", "a", *PLACE, *TRAIN], "add --type v5e-16"),
        (["tpu-vm", "--name", "a", *PLACE, "--type", "tpu7x-64", *TRAIN], "python -m launch gke"),
        (["tpu-vm", "--name", "a", *PLACE, "--tpye", "v4-8", *TRAIN], "did you mean --type"),
        (["tpu-vm", "--name", "a", *PLACE, "--type", "v4-8"], "expected an openseg command line"),
        (["tpu-vm", "--name", "a", *PLACE, "--type", "v4-8", "--delete-after", *TRAIN], "--watch"),
        (["tpu-vm", "--name", "a", *PLACE, "--delete", *TRAIN], "leave it out"),
        (["tpu-vm", "--name", "a", *PLACE, "--type", "v4-8", "--spot", "--reserved", *TRAIN],
         "not allowed with"),
        (["gke", "--name", "a", *PLACE, "--type", "v4-8", "--reserved", *TRAIN], "RESERVATION"),
        (["slurm", "--name", "a", "--time", "a day", *TRAIN], "no time limit"),
        (["local", "--name", "a", "--processes", "0", *TRAIN], "1 or more"),
        (["tpu-vm", "--name", "a", "--type", "v4-8", *TRAIN], "gcloud config set"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_with_the_mend(argv, hint, capsys):
    assert hint in complaint(capsys, *argv, *([] if "--" in argv else ["--"]))


def test_missing_tools_are_named(capsys):
    place = ["--name", "a", *PLACE, "--type", "v4-8", *TRAIN]
    assert "cloud.google.com/sdk" in complaint(capsys, "tpu-vm", *place)
    assert "login node" in complaint(capsys, "slurm", "--name", "a", *TRAIN)


def test_later_calls_need_not_repeat_the_place():
    options = {"zone": "z9", "project": "p9", "type": "v5e-16", "capacity": "spot", "host": None}
    records.save("tpu-vm", "a", options)
    text = dry("tpu-vm", "--name", "a", "--delete")
    assert "--project=p9 --zone=z9" in text
    assert "--zone=other" in dry("tpu-vm", "--name", "a", "--delete", "--zone", "other")
    assert records.known() == [("tpu-vm", "a")]
    assert "tpu-vm --name a  (v5e-16, spot, z9)" in cli._table()
    records.forget("tpu-vm", "a")
    assert records.known() == []


def run(workdir="gs://b/r", target="tpu-vm", kind="v5e-16", **more):
    argv = ("train", "--config", "miniature_clip", "--workdir", workdir)
    return Run(target, "a", command=Command(argv), accelerator=accelerator(kind), **more)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (run("runs/a"), "machines do not share it"),
        (run("runs/a", kind="v5e-8", capacity="spot"), "deleted with the machine"),
        (run("runs/a", kind="v5e-8"), "~/openseg_runs/a/runs/a over there"),
        (run("/nfs/a", kind="v5e-8"), None),
        (run("gs://b/r"), None),
        (run("runs/a", target="local"), None),
    ],
)
def test_work_folders_that_would_be_lost(run, said):
    found = checks._workdir(run)
    assert (not found) if said is None else said in found[0]


def test_folders_of_this_computer_are_told(tmp_path):
    path = str(tmp_path)
    argv = ("train", "--config", f"{path}/x.py", "--workdir", path, "--set", f"input.path={path}")
    here = Run("tpu-vm", "a", command=Command(argv), accelerator=accelerator("v5e-8"))
    assert checks._paths(here) == [
        f"{path} is of this computer; the machines need it in a bucket, or there"
    ]
    assert checks._paths(Run("slurm", "a", command=Command(argv))) == []


def test_an_unknown_bucket_is_an_error_and_a_far_one_a_warning(monkeypatch):
    monkeypatch.setattr(checks.shutil, "which", lambda name: name)
    monkeypatch.setattr(checks, "ask", lambda *argv: "")
    with pytest.raises(UserError, match="gcloud storage buckets create gs://b"):
        checks._bucket(run())
    monkeypatch.setattr(checks, "ask", lambda *argv: "EUROPE-WEST4")
    assert "traffic between costs" in checks._bucket(run(zone="us-central1-a"))[0]
    assert checks._bucket(run(zone="europe-west4-b")) == []


def test_changes_that_are_not_committed_are_told(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "configs").mkdir()
    for name in ("a", "b"):
        (tmp_path / "configs" / f"{name}.py").write_text("")
    git("add", "configs/a.py")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a")
    monkeypatch.setattr(checks, "ROOT", tmp_path)

    def with_config(name):
        argv = ("train", "--config", f"configs/{name}.py:tiny", "--workdir", "x")
        return Run("slurm", "a", command=Command(argv))

    assert checks._code(with_config("a")) == []
    with pytest.raises(UserError, match=r"git add configs/b\.py"):
        checks._code(with_config("b"))
    (tmp_path / "configs" / "a.py").write_text("x = 1\n")
    with pytest.raises(UserError, match=r"git commit configs/a\.py"):
        checks._code(with_config("a"))
    assert "1 files have changes" in checks._code(run())[0]

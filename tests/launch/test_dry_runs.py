"""Every target's dry run, pinned as text: `OPENSEG_WRITE_DRY_RUNS=1 pytest` writes them anew."""

import os
import re
from pathlib import Path

import pytest

from launch import records
from launch.targets import slurm
from tests.launch.scripts import check_syntax, commands, dry, files, neutral

FOLDER = Path(__file__).parent
TRAIN = ("--", "train", "--config", "miniature_clip", "--workdir")
GOOGLE = ("--project", "my-project", "--zone", "my-zone")
CASES = {
    "tpu_vm_spot": ("tpu-vm", "--name", "big", "--type", "v5e-256", *GOOGLE, "--spot", "--watch",
                    "--delete-after", *TRAIN, "gs://my-bucket/big"),
    "tpu_vm_one_host": ("tpu-vm", "--name", "small", "--type", "v6e-8", *GOOGLE, *TRAIN, "runs/a"),
    "tpu_vm_reservation": ("tpu-vm", "--name", "ours", "--type", "v5p-128", *GOOGLE, "--reserved",
                           "block-1", "--extra=--network=wide", *TRAIN, "gs://my-bucket/ours"),
    "gke_own_cluster": ("gke", "--name", "big", "--type", "tpu7x-64", *GOOGLE, "--spot", "--watch",
                        "--delete-after", *TRAIN, "gs://my-bucket/big"),
    "gke_their_cluster": ("gke", "--name", "big", "--type", "v4-512", *GOOGLE, "--cluster",
                          "shared", *TRAIN, "gs://my-bucket/big"),
    "slurm": ("slurm", "--name", "big", "--nodes", "4", "--gpus", "8", "--time", "24:00:00",
              "--extra=--partition=gpu", *TRAIN, "/shared/big"),
    "gpu_ssh": ("gpu", "--name", "one", "--host", "me@box", "--cuda", "13", "--python", "3.11",
                *TRAIN, "runs/one"),
    "gpu_here": ("gpu", "--name", "one", "--watch", *TRAIN, "runs/one"),
    "local": ("local", "--name", "two", "--processes", "2", "--devices", "2", *TRAIN, "runs/two"),
}  # fmt: skip
TARGETS = {
    "tpu-vm": ("tpu-vm", "--name", "big", *GOOGLE),
    "gke": ("gke", "--name", "big", *GOOGLE),
    "gke_their_cluster": ("gke", "--name", "big", *GOOGLE, "--cluster", "shared"),
    "slurm": ("slurm", "--name", "big"),
    "gpu_ssh": ("gpu", "--name", "big", "--host", "me@box"),
    "gpu_here": ("gpu", "--name", "big"),
    "local": ("local", "--name", "big"),
}


@pytest.fixture(autouse=True)
def no_records(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENSEG_LAUNCH_HOME", str(tmp_path))


def pinned(name: str, text: str) -> None:
    file = FOLDER / f"{name}.txt"
    if os.environ.get("OPENSEG_WRITE_DRY_RUNS"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8"), f"{file.name} differs; see the module's text"


@pytest.mark.parametrize("name", CASES)
def test_starting(name):
    text = dry(*CASES[name])
    check_syntax(text)
    pinned(name, neutral(text))


@pytest.mark.parametrize("name", TARGETS)
def test_the_rest(name):
    text = ""
    for action in ("logs", "status", "stop", "delete"):
        script = dry(*TARGETS[name], f"--{action}")
        check_syntax(script)
        text += f"#### --{action}\n{script}\n"
    pinned(f"{name.replace('-', '_')}_actions", neutral(text))


def test_a_dry_run_leaves_nothing(tmp_path):
    dry(*CASES["tpu_vm_spot"])
    assert records.known() == []


def test_nothing_pinned_is_left_over():
    kept = {f"{name}.txt" for name in CASES}
    kept |= {f"{name.replace('-', '_')}_actions.txt" for name in TARGETS}
    assert {path.name for path in FOLDER.glob("*.txt")} == kept


def test_tpu_vm_asks_for_what_was_said():
    create = commands(
        dry(*CASES["tpu_vm_spot"]), "gcloud", "compute", "tpus", "queued-resources", "create"
    )
    assert create == [[
        "gcloud", "compute", "tpus", "queued-resources", "create", "big", "--node-id=big",
        "--project=my-project", "--zone=my-zone", "--accelerator-type=v5litepod-256",
        "--runtime-version=v2-alpha-tpuv5-lite", "--spot",
    ]]  # fmt: skip
    create = commands(dry(*CASES["tpu_vm_reservation"]), "gcloud", "alpha")
    assert create[0][-2:] == ["--reservation=block-1", "--network=wide"]
    assert "--spot" not in create[0]


def test_every_remote_command_goes_to_all_workers():
    text = dry(*CASES["tpu_vm_spot"])
    for kind, count in (("ssh", 4), ("scp", 1)):
        found = commands(text, "gcloud", "compute", "tpus", "tpu-vm", kind)
        assert len(found) == count
        for words in found:
            asks = any("exit" in word for word in words)
            assert ("--worker=0" if asks else "--worker=all") in words
            assert {"--project=my-project", "--zone=my-zone", "--quiet"} <= set(words)


def process(script: str) -> str:
    return next(x for x in files(script)["machine.sh"].splitlines() if "&& exec" in x)


def test_several_hosts_find_one_another_and_share_checkpoints():
    line = next(
        x for x in files(dry(*CASES["tpu_vm_spot"]))["machine.sh"].splitlines() if "exec" in x
    )
    assert "--distributed" in line
    assert "--workdir ../work --checkpoints gs://my-bucket/big/checkpoints" in line
    alone = next(
        x for x in files(dry(*CASES["tpu_vm_one_host"]))["machine.sh"].splitlines() if "exec" in x
    )
    assert "--distributed" not in alone and "--workdir ../runs/a" in alone


def test_xpk_gets_its_own_flags():
    (create,) = commands(dry(*CASES["gke_own_cluster"]), "xpk", "workload", "create")
    assert {
        "--cluster=big", "--workload=big", "--tpu-type=tpu7x-64", "--num-slices=1",
        "--max-restarts=10", "--restart-on-exit-codes=1", "--base-docker-image=python:3.12",
        "--script-dir=$folder", "--command=bash machine.sh setup && exec bash machine.sh run",
    } <= set(create)  # fmt: skip
    (make,) = commands(dry(*CASES["gke_own_cluster"]), "xpk", "cluster", "create")
    assert "--spot" in make and "--tpu-type=tpu7x-64" in make
    theirs = dry(*CASES["gke_their_cluster"])
    assert not commands(theirs, "xpk", "cluster")
    assert not commands(dry(*TARGETS["gke_their_cluster"], "--delete"), "xpk", "cluster", "delete")
    assert commands(dry(*TARGETS["gke"], "--delete"), "xpk", "cluster", "delete")


def test_slurm_runs_a_process_a_gpu():
    job = files(dry(*CASES["slurm"]))["job.sbatch"]
    options = re.findall(r"^#SBATCH (.*)$", job, re.M)
    assert {"--nodes=4", "--ntasks-per-node=8", "--gpus-per-node=8", "--time=24:00:00",
            "--requeue", "--signal=TERM@300"} <= set(options)  # fmt: skip
    srun = next(line for line in job.splitlines() if line.startswith("srun"))
    assert srun.endswith("--workdir /shared/big --distributed")
    assert "sbatch --parsable --partition=gpu --chdir=" in dry(*CASES["slurm"])


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("", 300), ("24:00:00", 300), ("4:00", 60), ("8", 120), ("0:07", 15), ("2-0", 300),
     ("0-0:10", 150), ("0-0:0:40", 15), ("0:10:00", 150)],
)  # fmt: skip
def test_short_trials_get_a_short_notice(limit, seconds):
    assert slurm.notice(limit) == seconds


def test_local_processes_meet_at_one_port():
    lines = files(dry(*CASES["local"]))["machine.sh"].splitlines()
    lines = [line for line in lines if "exec" in line and "openseg_jax" in line]
    assert len(lines) == 2
    for place, line in enumerate(lines):
        assert f'--coordinator localhost:"$port" --processes 2 --process {place})' in line


@pytest.mark.parametrize("python", ["3.11", "3.12"])
@pytest.mark.parametrize("case", ["tpu_vm_spot", "slurm"])
def test_the_pins_of_the_python_travel(python, case):
    argv = list(CASES[case])
    argv[1:1] = ["--python", python]
    kind = "tpu" if case == "tpu_vm_spot" else "cuda12"
    name = f"py{python.replace('.', '')}-{kind}.txt"
    text = dry(*argv)
    assert f"launch/environments/{name}" in text
    assert f"uv venv --quiet --clear --python {python} env" in text

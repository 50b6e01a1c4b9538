"""What can be found out before anything is asked for: one line a problem, with its mend.

Errors stop the launcher, warnings do not. Nothing here is done in a dry run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from launch.command import FOLDERS
from launch.run import ROOT, Run
from openseg_jax.errors import UserError

# Free space that an environment needs here, in GB.
ENVIRONMENT_GB = 10

INSTALL = {
    "gcloud": "install the Google Cloud CLI: https://cloud.google.com/sdk/docs/install",
    "xpk": "install it: pip install xpk   (https://github.com/AI-Hypercomputer/xpk)",
    "kubectl": "install it: gcloud components install kubectl gke-gcloud-auth-plugin",
    "sbatch": "run this on the cluster's login node",
    "ssh": "install OpenSSH",
    "git": "install git",
}
TOOLS = {
    "tpu-vm": ("gcloud", "git"),
    "gke": ("gcloud", "kubectl", "xpk", "git"),
    "slurm": ("sbatch", "git"),
    "gpu": ("git",),
    "local": (),
}


def ask(*argv: str, seconds: float = 60.0) -> str:
    """Returns what a command prints, stripped; "" where it fails or is not there."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def google_default(what: str, option: str) -> str:
    """Returns gcloud's configured `core/project` or `compute/zone`, never a guess of ours.

    Raises:
        UserError: where none is configured.
    """
    found = ask("gcloud", "config", "get-value", what, "--quiet") if shutil.which("gcloud") else ""
    if not found or found == "(unset)":
        raise UserError(
            f"{option}: expected a name, got none, and gcloud has no default; "
            f"give {option} or set one: gcloud config set {what} NAME"
        )
    return found


def check(run: Run) -> list[str]:
    """Looks for what would go wrong.

    Returns:
        warnings, a line each.

    Raises:
        UserError: for the first problem that makes the run impossible.
    """
    tools = (*TOOLS[run.target], *(("ssh",) if run.host else ()))
    for tool in tools:
        if shutil.which(tool) is None:
            raise UserError(f"{run.target}: {tool} is not here; {INSTALL[tool]}")
    if "gcloud" in tools and not ask(
        "gcloud", "auth", "list", "--filter=status:ACTIVE", "--format=value(account)"
    ):
        raise UserError(f"{run.target}: gcloud is not logged in; run gcloud auth login")
    if run.action != "start":
        return []
    looks: Sequence[Callable[[Run], list[str]]] = (_code, _bucket, _workdir, _paths, _disk)
    return [line for look in looks for line in look(run)]


def _git(*words: str) -> list[str]:
    return ask("git", "-C", str(ROOT), *words).splitlines()


def _code(run: Run) -> list[str]:
    """The machines get the last commit: what is not in it would be missing there."""
    if run.target == "local" or not (ROOT / ".git").exists():
        return []
    config = run.line.option("--config").partition(":")[0]
    if config.endswith(".py") and not _git("ls-files", "--", config):
        raise UserError(
            f"--config: {config} is not committed, and the machines get what is; "
            f"run git add {config} && git commit"
        )
    changed = _git("diff", "--name-only", "HEAD")
    if config in changed:
        raise UserError(
            f"--config: {config} has changes that are not committed, and the machines get what is; "
            f"run git commit {config}"
        )
    if not changed:
        return []
    names = ", ".join(changed[:3]) + (", …" if len(changed) > 3 else "")
    return [f"{len(changed)} files have changes that are not committed and not sent ({names})"]


def _bucket(run: Run) -> list[str]:
    """A bucket that is not there is found out now, not after an hour in the queue."""
    address = run.line.bucket or run.line.option("--checkpoints")
    if not address.startswith("gs://") or shutil.which("gcloud") is None:
        return []
    bucket = "gs://" + address.removeprefix("gs://").split("/")[0]
    where = ask("gcloud", "storage", "buckets", "describe", bucket, "--format=value(location)")
    if not where:
        raise UserError(
            f"{bucket}: no such bucket, or none that this account may see; make it: "
            f"gcloud storage buckets create {bucket} --location=REGION"
        )
    region = run.zone.rpartition("-")[0]
    if run.target in ("tpu-vm", "gke") and "-" in where and where.lower() != region:
        return [f"{bucket} is in {where.lower()}, the machines in {region}: traffic between costs"]
    return []


def _workdir(run: Run) -> list[str]:
    """Checkpoints on a disk that goes with its machine, or that other machines do not see."""
    line = run.line
    if line.verb != "train" or line.bucket or line.option("--checkpoints"):
        return []
    several = run.accelerator is not None and run.accelerator.several_hosts
    gone = run.target == "gke" or run.capacity == "spot" or run.delete_after
    if run.target in ("tpu-vm", "gke") and (several or gone):
        why = "machines do not share it" if several else "it is deleted with the machine"
        return [
            f"--workdir {line.workdir} is a folder of each machine, and {why}; "
            f"give --workdir gs://BUCKET/{run.name}"
        ]
    if run.target != "local" and not line.workdir.startswith(("/", "~")):
        return [f"--workdir {line.workdir} will be ~/{run.folder}/{line.workdir} over there"]
    return []


def _paths(run: Run) -> list[str]:
    """Files and folders of this computer, which other machines do not have."""
    if run.target in ("local", "slurm") or (run.target == "gpu" and not run.host):
        return []
    found = []
    for option, word in zip(("", *run.line.argv), run.line.argv, strict=False):
        value = word.rpartition("=")[2]
        written = option in FOLDERS or word.partition("=")[0] in (*FOLDERS, "--config")
        if written or option == "--config" or "/" not in value:
            continue
        if Path(value).exists() and value not in _git("ls-files", "--", value):
            found.append(f"{value} is of this computer; the machines need it in a bucket, or there")
    return found


def _disk(run: Run) -> list[str]:
    here = run.target == "slurm" or (run.target == "gpu" and not run.host)
    if not here:
        return []
    free = shutil.disk_usage(Path.home()).free / 2**30
    if free < ENVIRONMENT_GB:
        raise UserError(
            f"{Path.home()}: expected {ENVIRONMENT_GB} GB free for the environment, got "
            f"{free:.0f}; free some, or set HOME to a larger disk"
        )
    return []


def warn(lines: Sequence[str]) -> None:
    """Prints warnings, so that they stand apart from what the scripts say."""
    for line in lines:
        print(f"launch: warning: {line}", file=sys.stderr)

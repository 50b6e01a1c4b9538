"""What travels to a machine: the committed code, the pins and `machine.sh`; no secret is in it."""

from __future__ import annotations

import shlex

from launch.bash import command, here
from launch.machine import Machine
from launch.run import ROOT, Run

FOLDER = '"$folder"'
TEMPORARY = "folder=$(mktemp -d)\ntrap 'rm -rf \"$folder\"' EXIT"
# Of a checkout without git (an unpacked download).
PARTS = ("openseg_jax", "configs", "data", "launch", "setup.py", "pyproject.toml", "README.md")


def bundle(run: Run, machine: Machine, accelerator: str) -> str:
    """Returns commands that fill `$folder` with code.tar.gz, pins.txt and machine.sh."""
    return "\n".join([
        "# What the machines get: the last commit, pinned packages, one script.",
        archive(),
        f"{command('cp', str(run.pins(accelerator)))} {inside('pins.txt')}",
        here(inside("machine.sh"), machine.script()),
    ])  # fmt: skip


def archive() -> str:
    """Returns the command that packs the code: what is committed, without the tests."""
    out = inside("code.tar.gz")
    if (ROOT / ".git").exists():
        return (
            f"{command('git', '-C', str(ROOT), 'archive', '--format=tar.gz')} --output={out} "
            f"{command('HEAD', '--', '.', ':(exclude)tests')}"
        )
    return f"{command('tar', '-C', str(ROOT), '-czf')} {out} {command(*PARTS)}"


def inside(name: str) -> str:
    """Returns a bash word for a file in `$folder`."""
    return f'"$folder/{name}"'


def remote(run: Run, *verbs: str) -> str:
    """Returns the command line that calls `machine.sh` from a home folder, once for each verb."""
    script = shlex.quote(f"{run.folder}/machine.sh")
    return " && ".join(f"bash {script} {verb}" for verb in verbs)


def openseg(run: Run, *, several: bool) -> tuple[str, ...]:
    """Returns a process's words, from the `code` folder; `several` find one another."""
    line = run.line.elsewhere()
    return ("../env/bin/openseg", *(line.distributed() if several else line.argv))

"""What a person asked for, in one value that every target reads."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from launch.accelerators import Accelerator
from launch.command import Command
from launch.machine import RUNS
from openseg_jax.errors import UserError

ROOT = Path(__file__).parents[1]
ACTIONS = ("start", "logs", "status", "stop", "delete")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run on some machines, and what to do with it.

    Attributes:
        target: key of `launch/targets` TARGETS.
        name: of the run and of what is made for it; see `check_name`.
        action: one of ACTIONS.
        command: the `openseg` command line; None where the action needs none.
        accelerator: the TPU slice, where the target has one.
        project, zone: of Google Cloud.
        capacity: "on-demand", "spot" or "reserved".
        reservation: its name, or "".
        cluster: GKE cluster that is there already; "" makes one of the run's name.
        host: GPU box to reach by ssh; "" is this machine.
        nodes, gpus: SLURM nodes, and GPUs of each.
        hours: SLURM time limit, as SLURM writes it.
        processes, devices: local processes, and CPU devices of each.
        cuda: major version of the CUDA packages.
        python: version of the pinned environment.
        restarts: tries after a failed first one.
        watch: stay until the run ends, and ask for preempted machines again.
        delete_after: delete what costs money when the run has ended well.
        worker: whose log is followed.
        extra: flags for the command that asks for the machines.
    """

    target: str
    name: str
    action: str = "start"
    command: Command | None = None
    accelerator: Accelerator | None = None
    project: str = ""
    zone: str = ""
    capacity: str = "on-demand"
    reservation: str = ""
    cluster: str = ""
    host: str = ""
    nodes: int = 1
    gpus: int = 8
    hours: str = ""
    processes: int = 1
    devices: int = 1
    cuda: str = "12"
    python: str = "3.12"
    restarts: int = 10
    watch: bool = False
    delete_after: bool = False
    worker: int = 0
    extra: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """The run's folder, from the home folder of a machine."""
        return f"{RUNS}/{self.name}"

    @property
    def line(self) -> Command:
        """The command line, where there must be one."""
        assert self.command is not None
        return self.command

    def pins(self, accelerator: str) -> Path:
        """Returns the pinned environment for "tpu", "cuda12" or "cuda13"."""
        found = f"py{self.python.replace('.', '')}-{accelerator}.txt"
        return ROOT / "launch" / "environments" / found


def check_name(name: str) -> str:
    """Returns a run's name, or raises UserError: GKE, SLURM and folders must all take it."""
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", name):
        fixed = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-")
        if not fixed or not fixed[0].isalpha():
            fixed = f"run-{fixed}"[:40].strip("-")
        raise UserError(
            f"--name: expected small letters, digits and dashes, 40 at most, got {name!r}; "
            f"try {fixed}"
        )
    return name

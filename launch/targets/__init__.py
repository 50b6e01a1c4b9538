"""Where runs go. Each target turns a `Run` into bash scripts: start, logs, status, stop, delete."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Protocol

from launch.run import Run


class Target(Protocol):
    """What the module of a target has; each function returns a script."""

    def start(self, run: Run) -> str:
        """Gets machines, sets them up and starts the command; again is fine."""
        ...

    def logs(self, run: Run) -> str:
        """Follows the log."""
        ...

    def status(self, run: Run) -> str:
        """Says what is there and what it does."""
        ...

    def stop(self, run: Run) -> str:
        """Ends the command after a last checkpoint; machines stay."""
        ...

    def delete(self, run: Run) -> str:
        """Deletes all that the run made and that costs money."""
        ...


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the table of targets.

    Attributes:
        module: of the target.
        use: when to take it.
        example: options of a typical start.
    """

    module: str
    use: str
    example: str


TARGETS = {
    "tpu-vm": Entry(
        "launch.targets.tpu_vm",
        "TPUs of Google Cloud, asked for as a queued resource",
        "--type v5e-256 --spot --zone ZONE --watch --delete-after",
    ),
    "gke": Entry(
        "launch.targets.gke",
        "TPUs of a Kubernetes cluster, through XPK; tpu7x needs it",
        "--type v5e-256 --cluster CLUSTER --zone ZONE",
    ),
    "slurm": Entry(
        "launch.targets.slurm",
        "GPUs of a SLURM cluster, from its login node",
        "--nodes 4 --gpus 8 --time 24:00:00",
    ),
    "gpu": Entry(
        "launch.targets.gpu",
        "one box with GPUs, by ssh or the one you are on",
        "--host user@box",
    ),
    "local": Entry(
        "launch.targets.local",
        "this machine's CPU in several processes: to try things",
        "--processes 2",
    ),
}


def load(name: str) -> Target:
    """Returns the module of a target, a key of TARGETS."""
    return importlib.import_module(TARGETS[name].module)  # type: ignore[return-value]

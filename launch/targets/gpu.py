"""One box with GPUs: by ssh, or the machine that you are on. One process drives all its GPUs."""

from __future__ import annotations

import shlex

from launch.bash import say, script, words
from launch.machine import Machine
from launch.run import Run
from launch.targets.bundle import TEMPORARY, bundle, openseg, remote

ENVIRONMENT = {"JAX_PLATFORMS": "cuda,cpu"}


def start(run: Run) -> str:
    """Copies the code, installs and starts the command in the background."""
    same = f"python -m launch gpu --name {run.name}"
    return script(
        TEMPORARY,
        bundle(run, machine(run), f"cuda{run.cuda}"),
        _on(run, "nvidia-smi --list-gpus"),
        _on(run, f"mkdir -p {run.folder}"),
        _copy(run),
        _on(run, remote(run, "setup", "start")),
        say(f"Follow it: {same} --logs"),
        _on(run, remote(run, "wait")) if run.watch else "",
        purpose=f"Run {run.name} on {run.host or 'this machine'}. Running this again is fine.",
    )


def logs(run: Run) -> str:
    """Follows the log."""
    return script(_on(run, remote(run, "logs")))


def status(run: Run) -> str:
    """Says what the run and the GPUs do."""
    return script(_on(run, f"{remote(run, 'status')}; nvidia-smi"))


def stop(run: Run) -> str:
    """Ends the command after a last checkpoint."""
    return script(_on(run, remote(run, "stop")))


def delete(run: Run) -> str:
    """Ends the command and frees the disk of what can be made again."""
    return script(
        _on(run, remote(run, "stop", "clean")),
        say("A rented box costs until you end it with whom you rent it from."),
    )


def machine(run: Run) -> Machine:
    """Returns what the box does."""
    return Machine(
        processes=[openseg(run, several=False)],
        environment=ENVIRONMENT,
        python=run.python,
        restarts=run.restarts,
        pause=5,
        bucket=run.line.bucket,
    )


def _on(run: Run, line: str) -> str:
    """Runs a line in the box's home folder."""
    if run.host:
        return words("ssh", run.host, line)
    return words("bash", "-c", f"cd && {line}")


def _copy(run: Run) -> str:
    files = " ".join(f'"$folder/{name}"' for name in ("code.tar.gz", "pins.txt", "machine.sh"))
    if run.host:
        return f"scp -q {files} {shlex.quote(f'{run.host}:{run.folder}/')}"
    return f'cp {files} "$HOME"/{shlex.quote(run.folder)}/'

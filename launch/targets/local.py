"""This machine's CPU, in as many processes as you like: what several hosts do, without any.

Uses the Python that runs the launcher, and your checkout as it is: nothing is copied.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from launch.bash import here, say, script, words
from launch.machine import PORT, Machine
from launch.run import Run
from launch.targets.bundle import inside, remote

# What a run leaves in its folder.
_LEFT = ("machine.sh", "log.txt", "pid", "pid.new", "exit", "stopped", "asked")


def start(run: Run) -> str:
    """Starts the processes in the background."""
    same = f"python -m launch local --name {run.name}"
    return script(
        f'folder="$HOME"/{shlex.quote(run.folder)}\nmkdir -p "$folder"',
        here(inside("machine.sh"), machine(run).script()),
        f"cd\n{remote(run, 'start')}",
        say(f"Follow it: {same} --logs"),
        remote(run, "wait") if run.watch else "",
        purpose=f"Run {run.name} here, in {run.processes} processes.",
    )


def logs(run: Run) -> str:
    """Follows the first process's log; log_1.txt is the second's."""
    return script(f"cd\n{remote(run, 'logs')}")


def status(run: Run) -> str:
    """Says what the run does."""
    return script(f"cd\n{remote(run, 'status')}")


def stop(run: Run) -> str:
    """Ends the processes after a last checkpoint."""
    return script(f"cd\n{remote(run, 'stop')}")


def delete(run: Run) -> str:
    """Ends the processes and removes the logs; the work folder is left alone."""
    return script(
        f"cd\n{remote(run, 'stop')}",
        words("rm", "-f", *(f"{run.folder}/{name}" for name in _LEFT)) + f" {run.folder}/log_*.txt",
        say(f"Removed the logs in {run.folder}. The --workdir stays. Nothing here costs money."),
    )


def machine(run: Run) -> Machine:
    """Returns what this machine does."""
    python = (sys.executable, "-P", "-m", "openseg_jax.cli.main")
    if run.processes == 1:
        processes = [(*python, *run.line.argv)]
    else:
        number = str(run.processes)
        processes = [
            (*python, *run.line.distributed(
                "--coordinator", f"localhost{PORT}", "--processes", number, "--process", str(place)
            ))
            for place in range(run.processes)
        ]  # fmt: skip
    environment = {"JAX_PLATFORMS": "cpu", "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
    if run.devices > 1:
        flag = f"--xla_force_host_platform_device_count={run.devices}"
        environment["XLA_FLAGS"] = flag
    return Machine(
        processes=processes,
        environment=environment,
        python="",
        folder=str(Path.cwd()),
        restarts=run.restarts,
        pause=2,
    )

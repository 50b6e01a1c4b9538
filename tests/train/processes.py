"""Trainings in processes of their own, which tests kill.

`python -m tests.train.processes` imports everything once and forks a process for each command, so
that twenty runs cost twenty trainings and not twenty imports of JAX. It reads JSON lines: a list of
arguments, variables and a log file starts a process and answers its number; a number answers the
exit code of that process when it has ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.ports import held_port


class Job:
    """A started process.

    Args:
        farm: that started it.
        number: the system's, of the process.
        log: where what it says goes.
    """

    def __init__(self, farm: Farm, number: int, log: Path) -> None:
        self.farm, self.number, self.log = farm, number, log

    def kill(self, which: int = signal.SIGKILL) -> None:
        os.kill(self.number, which)

    def wait(self) -> int:
        """Returns the exit code; −9 for one that was killed."""
        return self.farm.ask(self.number)

    def said(self) -> str:
        return self.log.read_text()

    def lines(self) -> list[str]:
        """What it said for people: no log lines, no noise of gloo's."""
        return [line for line in self.said().splitlines() if line.startswith("openseg:")]


class Gate:
    """Where processes of one training wait, in the middle of a step, until it opens.

    Each has done its share of the step and has yet to ask whether all shall stop.

    Args:
        folder: of its own.
        step: in which they wait.
        notice: opens when JAX has told all of a signal to one, which it looks for once a second.
    """

    def __init__(self, folder: Path, step: int, notice: bool = False) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.step, self.notice = folder, step, notice

    def open(self) -> None:
        (self.folder / "open").touch()

    def waiting(self) -> int:
        """Counts the processes that have come to it."""
        return len(list(self.folder.glob("process_*")))

    def guard(self) -> None:
        """Has this process stop at it."""
        from openseg_jax.train.stopping import Stopping

        wanted = Stopping.wanted

        def later(stopping: Stopping, step: int) -> bool:
            if step == self.step:
                (self.folder / f"process_{os.getpid()}").touch()
                self._wait()
            return wanted(stopping, step)

        Stopping.wanted = later

    def _wait(self) -> None:
        if self.notice:
            from jax._src.distributed import global_state

            # The key of its preemption_sync_manager.cc.
            global_state.client.blocking_key_value_get("RECEIVED_PREEMPTION_NOTICE", 600_000)
            return
        farm = os.getppid()
        while not (self.folder / "open").exists() and os.getppid() == farm:
            time.sleep(0.01)


class Farm:
    """Starts `openseg` commands in forks of one process.

    Args:
        cache: folder for compiled programs, which all share.
    """

    def __init__(self, cache: Path) -> None:
        self._held = contextlib.ExitStack()
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.train.processes"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OPENSEG_CACHE": str(cache), "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip

    def ask(self, question: object) -> int:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(question) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def start(self, log: Path, *argv: object, devices: int = 1, gate: Gate | None = None) -> Job:
        flags = (
            f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        )
        held = [str(gate.folder), gate.step, gate.notice] if gate else None
        question = [[str(x) for x in argv], {"XLA_FLAGS": flags}, str(log), held]
        return Job(self, self.ask(question), log)

    def together(
        self,
        count: int,
        workdir: Path,
        *argv: object,
        devices: int = 1,
        gate: Gate | None = None,
    ) -> list[Job]:
        """Starts `count` processes of one training, on this machine."""
        port = self._held.enter_context(held_port())
        return [
            self.start(
                workdir.with_name(f"{workdir.name}.{process}.log"),
                *train(workdir), *argv, "--coordinator", f"localhost:{port}",
                "--processes", count, "--process", process, devices=devices, gate=gate,
            )
            for process in range(count)
        ]  # fmt: skip

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()
        self._held.close()


def train(workdir: Path) -> list[object]:
    return ["train", "--config", "miniature_clip:tiny", "--workdir", workdir]


def settings(**values: object) -> list[str]:
    """Arguments that change values of the config; `__` stands for a dot."""
    each = [f"{name.replace('__', '.')}={value}" for name, value in values.items()]
    return [word for pair in each for word in ("--set", pair)]


def until(condition: Callable[[], bool], jobs: list[Job], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, [job.said()[-2000:] for job in jobs]
        time.sleep(0.005)


def metrics(workdir: Path) -> list[dict[str, float]]:
    """The rows of `metrics.jsonl` so far; the last one may be half-written."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def losses(workdir: Path) -> dict[int, float]:
    """Loss by step; a step that was done twice counts as the second time."""
    return {int(row["step"]): row["loss"] for row in metrics(workdir) if "loss" in row}


def serve() -> None:
    from openseg_jax.cli import main

    main.prepare_environment()
    # All that a training imports; none of it may touch a device, or forks would be unsound.
    import openseg_jax.cli.train
    import openseg_jax.train.export
    import openseg_jax.train.loop
    import openseg_jax.train.setup_clip  # noqa: F401
    import tests.train.toy_setup  # noqa: F401
    from openseg_jax.train import setup

    setup.TASKS["toy"] = ("tests.train.toy_setup", "build")

    for line in sys.stdin:
        question = json.loads(line)
        if isinstance(question, int):
            _, status = os.waitpid(question, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        argv, variables, log, held = question
        number = os.fork()
        if number == 0:
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            empty = os.open(os.devnull, os.O_RDONLY)
            for old, new in ((empty, 0), (file, 1), (file, 2)):
                os.dup2(old, new)
            os.environ.update(variables)
            if held is not None:
                Gate(Path(held[0]), *held[1:]).guard()
            sys.exit(main.main(argv))
        print(number, flush=True)


if __name__ == "__main__":
    serve()

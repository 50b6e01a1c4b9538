"""A profile of a few steps, planned in the config or asked for while a training runs."""

from __future__ import annotations

import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import jax
from absl import logging

from openseg_jax.errors import expected

STEPS = 5
"""Steps that are profiled when somebody asks during a run."""


def parse_window(text: str) -> tuple[int, int] | None:
    """Reads "100:105" as steps 100 to 104; "" is None.

    Raises:
        UserError: for anything else.
    """
    if not text:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if found is None or not 0 < int(found[1]) < int(found[2]):
        raise expected(
            "watch.profile", "two steps as in 100:105", repr(text),
            "give the first step and the one after the last",
        )  # fmt: skip
    return int(found[1]), int(found[2])


class Profiler:
    """Writes `profile_STEP/` in the workdir: jax.profiler's trace, and one for Perfetto.

    Processes after the first write `profile_STEP_process_NUMBER/`.

    Besides the config's window, creating the file `workdir/profile` (`touch`) or sending SIGUSR1
    to the process profiles the next `STEPS` steps. The first process alone looks for the file;
    a process that something else has given a handler for SIGUSR1 keeps that one.

    Args:
        workdir: the training's folder.
        window: "100:105" profiles steps 100 to 104, on every process; "" none.
    """

    def __init__(self, workdir: Path, window: str = "") -> None:
        self._workdir, self._window = workdir, parse_window(window)
        self._asked = False
        self._folder: Path | None = None
        self._last = 0
        self._before: Any = None
        if (
            hasattr(signal, "SIGUSR1")
            and threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
        ):
            self._before = signal.signal(signal.SIGUSR1, self._ask)

    def _ask(self, *_: Any) -> None:
        self._asked = True

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._stop()
        if self._before is not None:
            signal.signal(signal.SIGUSR1, self._before)

    def begin(self, step: int) -> float:
        """Starts a profile if this step is the first of one; call it before the step's input.

        Returns:
            Seconds that this took.
        """
        if self._folder is not None:
            return 0.0
        first, after = self._window or (0, 0)
        if first == step:
            self._last = after - 1
        elif self._requested():
            self._last = step + STEPS - 1
        else:
            return 0.0
        began = time.perf_counter()
        number = jax.process_index()
        # Processes of one machine would write the same files.
        of = f"_process_{number}" if number else ""
        self._folder = self._workdir / f"profile_{step}{of}"
        try:
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
        except RuntimeError as error:
            # Somebody else's profiler is at work in this process: theirs goes on.
            logging.warning("no profile of step %d: %s", step, error)
            self._folder = None
        return time.perf_counter() - began

    def mark(self, step: int) -> Any:
        """Names what is dispatched within as the step, in the profile."""
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def end(self, step: int, result: Any) -> float:
        """Ends the profile after its last step.

        Args:
            step: the step that was dispatched.
            result: of it; waited for, so that the profile holds all of the step.

        Returns:
            Seconds that writing took.
        """
        if self._folder is None or step < self._last:
            return 0.0
        jax.block_until_ready(result)
        began = time.perf_counter()
        self._stop()
        return time.perf_counter() - began

    def _requested(self) -> bool:
        asked, self._asked = self._asked, False
        file = self._workdir / "profile"
        if jax.process_index() == 0 and file.is_file():
            file.unlink(missing_ok=True)
            asked = True
        return asked

    def _stop(self) -> None:
        folder, self._folder = self._folder, None
        try:
            jax.profiler.stop_trace()
        except (OSError, RuntimeError, ValueError) as error:
            # A full disk, a trace that cannot be converted: no reason to end a training.
            logging.warning("the profile in %s is not whole: %s", folder, error)
            return
        logging.info(
            "profile in %s: open its perfetto_trace.json.gz at ui.perfetto.dev, or the folder "
            "with xprof (pip install xprof; xprof --logdir=%s)", folder, folder,
        )  # fmt: skip

"""Stopping before the end: a machine that is taken away, a person who presses Ctrl-C.

Either way the training saves, waits for it, and raises `TrainingStopped`; the same command goes on
from there.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import jax
from absl import logging


class TrainingStopped(Exception):
    """The training was asked to stop, and has saved its state.

    Attributes:
        step: the last step, which is saved.
        exit_code: for the process: 128 + the signal's number, as shells count. 143 for SIGTERM,
            which a launcher answers by starting the same command again; 130 for Ctrl-C.
    """

    outcome = "stopped"  # in the training's summary

    def __init__(self, step: int, steps: int, number: int) -> None:
        name = "interrupted" if number == signal.SIGINT else "stopped by SIGTERM"
        super().__init__(
            f"{name}: step {step} of {steps} is saved; the same command goes on from there"
        )
        self.step, self.exit_code = step, 128 + int(number)


class Stopping:
    """Asks at every step whether to stop; a context in which signals are requests.

    In one process, SIGTERM and the first Ctrl-C end the training after the step that runs; a
    second Ctrl-C ends it at once. With several processes JAX's coordinator has them agree on one
    step: SIGTERM to any of them is enough, and Ctrl-C is passed on as one.

    Args:
        preempted: tells whether the processes agreed to stop at a step.
        processes: their number; None asks JAX.
    """

    def __init__(self, preempted: Callable[[int], bool], processes: int | None = None) -> None:
        self._preempted = preempted
        self._several = (jax.process_count() if processes is None else processes) > 1
        self._before: dict[int, Any] = {}
        self.number = 0  # of the signal that came; 0 for none

    def __enter__(self) -> Stopping:
        # Signals reach the main thread only; elsewhere, in a notebook's worker say, none is taken.
        if threading.current_thread() is threading.main_thread():
            # JAX's coordinator takes SIGTERM itself.
            taken = (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM)
            self._before = {number: signal.signal(number, self._take) for number in taken}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wanted(self, step: int) -> bool:
        """Tells whether to stop after a step; with several processes each must ask at each."""
        if not self._several:
            return self.number != 0
        if not self._preempted(step):
            return False
        self.number = self.number or signal.SIGTERM
        return True

    def _take(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT and self.number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
        again = "; again to stop without saving" if number == signal.SIGINT else ""
        logging.warning("%s: saving after this step%s", signal.Signals(number).name, again)

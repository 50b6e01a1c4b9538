"""Joining the other processes of a job; one interface for all verbs that several can share."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from openseg_jax.errors import UserError, expected


def add_arguments(parser: Any, what: str) -> None:
    """Declares the options.

    Args:
        parser: or a group of one.
        what: is shared: "the pictures".
    """
    parser.add_argument(
        "--distributed", action="store_true",
        help=f"share {what} with the other processes of this job; TPU pods, SLURM and Kubernetes "
        "say themselves which these are, elsewhere:",
    )  # fmt: skip
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 runs")
    parser.add_argument("--processes", type=int, metavar="N", help="number of processes")
    parser.add_argument("--process", type=int, metavar="I", help="this one's number, from 0")


def join(args: argparse.Namespace) -> None:
    """Joins the job, if there is one; must come before anything asks JAX for devices.

    Raises:
        UserError: for options that do not fit together, or processes that cannot be reached.
    """
    given = {name: getattr(args, name) for name in ("coordinator", "processes", "process")}
    named = [name for name, value in given.items() if value is not None]
    if not args.distributed and not named:
        return
    if named and len(named) < len(given):
        lacking = " and ".join(f"--{name}" for name in given if name not in named)
        raise UserError(
            f"--{named[0]}: expected --coordinator, --processes and --process together, got no "
            f"{lacking}; give all three, or --distributed alone on a cluster that JAX knows"
        )
    if named:
        _check(args)
    import jax

    try:
        jax.distributed.initialize(args.coordinator, args.processes, args.process)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--distributed: cannot join the other processes ({reason}); on machines that JAX "
            "does not know as a cluster give --coordinator HOST:PORT --processes N --process I"
        ) from error


def leave(code: int) -> None:
    """Ends a process that failed in a job of several, without meeting the others.

    At the end of a job all processes wait for one another; the others would not come, being stuck
    in an exchange with this one. They notice at once (gloo) or by its missing heartbeat. Does
    nothing outside such a job.
    """
    if "jax" not in sys.modules:
        return
    import jax

    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def is_lost(error: Exception) -> bool:
    """Tells whether an error means that another process of the job has ended or cannot be heard."""
    text = str(error)
    signs = ("Gloo", "coordination service", "CoordinationService", "NCCL", "heartbeat")
    return type(error).__name__ == "JaxRuntimeError" and any(sign in text for sign in signs)


def _check(args: argparse.Namespace) -> None:
    host, _, port = args.coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise expected("--coordinator", "HOST:PORT", repr(args.coordinator), "add the port")
    if args.processes < 1:
        raise expected("--processes", "1 or more", str(args.processes), "correct it")
    if not 0 <= args.process < args.processes:
        raise expected(
            "--process", f"0 to {args.processes - 1}", str(args.process),
            "number the processes from 0",
        )  # fmt: skip

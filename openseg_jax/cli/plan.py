"""`openseg plan`: says whether a run fits a machine, and how fast it can be at most.

Exit codes: 0 it fits, 3 it does not (the report says what to change), 2 a mistake in what was
given.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openseg_jax.cli.train import load_config, override
from openseg_jax.errors import UserError, expected, unknown_name
from openseg_jax.files import atomic_write
from openseg_jax.plan.topology import Machine, parse, topologies

DOES_NOT_FIT = 3
_AXES = ("data", "fsdp", "tensor")
# libtpu without a TPU: no questions to a metadata server, and two plans may run side by side.
_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    add = parser.add_argument
    add("--config", help="a training config, file or bare name, with an argument: x.py:tiny")
    add("--topology", help="the machine: v5e:16x16, v5e-256, v4-512, h100:8, a100:8x4")
    add("--topologies", action="store_true", help="list the short names and leave")
    add("--batch", type=int, help="examples a step over all devices; an inference's, of one device")
    add("--accumulate", type=int, help="parts that a batch is cut into")
    add("--mesh", default="", metavar="data=..,fsdp=..", help="sizes of the mesh's axes")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change the config")
    add("--inference", metavar="METHOD", help="plan a method's inference on one device instead")
    add("--no-search", action="store_true", help="do not look for the largest batch that fits")
    add("--exact", action="store_true", help="compile with full effort, as the run does: slower")
    add("--json", metavar="FILE", help="also write the numbers")


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    if args.topologies:
        for name, full in topologies().items():
            print(f"{name:12} {full}")
        return 0
    if not args.topology:
        raise expected("--topology", "a machine", "none", "try v5e-16; --topologies lists names")
    if bool(args.config) == bool(args.inference):
        raise expected("--config", "a training, or --inference METHOD", "both or none", "give one")
    machine = parse(args.topology)
    prepare(machine)
    with quiet():
        text, numbers, fits = _inference(args, machine) if args.inference else _training(
            args, machine
        )  # fmt: skip
    print(text)
    if args.json:
        with atomic_write(Path(args.json)) as aside:
            aside.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return 0 if fits else DOES_NOT_FIT


def prepare(machine: Machine) -> None:
    """Sets what JAX and libtpu read when they start; nothing that the user has set.

    Raises:
        UserError: where libtpu is needed and not there.
    """
    # The devices that are here are never used, so a broken or busy one must not matter.
    os.environ["JAX_PLATFORMS"] = "cpu"
    if machine.chip.kind == "tpu":
        if importlib.util.find_spec("libtpu") is None:
            raise UserError("plan: compiling for TPUs needs libtpu: pip install -e '.[tpu-plan]'")
        for name, value in _TPU.items():
            os.environ.setdefault(name, value)
        return
    flags = os.environ.get("XLA_FLAGS", "")
    if "host_platform_device_count" not in flags:
        stand_ins = f"--xla_force_host_platform_device_count={machine.devices}"
        os.environ["XLA_FLAGS"] = f"{flags} {stand_ins}".strip()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps what libtpu writes past Python to standard error away from people.

    It warns that this is no TPU, on every start. `OPENSEG_DEBUG=1` shows it.
    """
    if os.environ.get("OPENSEG_DEBUG", "") not in ("", "0"):
        yield
        return
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def parse_mesh(text: str) -> dict[str, int]:
    """Reads "data=4,fsdp=2"; axes that are not named are 1, and data takes the rest."""
    sizes = {"data": -1, "fsdp": 1, "tensor": 1}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name.strip() not in _AXES:
            unknown_name(name.strip(), _AXES, "--mesh axis")
        try:
            sizes[name.strip()] = int(value)
        except ValueError as error:
            raise expected("--mesh", "AXIS=NUMBER", repr(part), "try --mesh fsdp=4") from error
    return sizes


def _training(args: argparse.Namespace, machine: Machine) -> tuple[str, dict[str, Any], bool]:
    config: Any = override(load_config(args.config), args.set)
    if args.batch is not None:
        config.batch_size = args.batch
    if args.accumulate is not None:
        config.accumulate = args.accumulate
    if config.batch_size < 1 or config.accumulate < 1:
        raise expected("--batch, --accumulate", "1 or more", "less", "correct it")
    if args.mesh:
        config.mesh.update(parse_mesh(args.mesh))
    # JAX starts only now, with its environment set.
    from openseg_jax.plan import report, training

    first = training.plan_training(config, machine, exact=args.exact)
    largest = None
    if not args.no_search:
        largest = training.find_largest(
            first,
            lambda batch: training.plan_training(
                training.with_batch(config, batch), machine, exact=args.exact
            ),
        )
    text = report.plan_text(first, largest, exact=args.exact)
    numbers = report.plan_dict(first, largest, exact=args.exact)
    return text, numbers, first.measured.fits


def _inference(args: argparse.Namespace, machine: Machine) -> tuple[str, dict[str, Any], bool]:
    from openseg_jax.plan import inference

    batch = 1 if args.batch is None else args.batch
    return inference.run(args.inference, machine, batch, args.set, exact=args.exact)

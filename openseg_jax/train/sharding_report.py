"""What each parameter got: rule, placement and memory, for people."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import jax
from absl import logging

from openseg_jax.files import atomic_write
from openseg_jax.tasks.base import Rules
from openseg_jax.train.program import Program
from openseg_jax.train.sharding import TRANSFORMER_RULES
from openseg_jax.train.state import flat_names

LARGE = 1 << 20
"""Bytes on each device from which a parameter should not be a copy there."""


@dataclasses.dataclass(frozen=True)
class Placed:
    """One parameter's line of the report.

    Attributes:
        name, shape, dtype: of the parameter.
        rule: the regular expression that decided.
        spec: mesh axes of its axes, "copy" where each device has all of it.
        whole, device: bytes of all of it, and on each device.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    rule: str
    spec: str
    whole: int
    device: int


def describe_sharding(program: Program, rules: Rules = ()) -> list[Placed]:
    """Lists the parameters in the order of their bytes on each device, the largest first.

    Args:
        program: of the training; nothing is computed.
        rules: that it was built with; () for `TRANSFORMER_RULES`.
    """
    shapes, placed = flat_names(program.shapes.params), flat_names(program.placed.params)
    patterns = [pattern for pattern, _ in rules or TRANSFORMER_RULES]
    lines = []
    for name, shape in shapes.items():
        spec = placed[name].spec
        lines.append(
            Placed(
                name=name,
                shape=tuple(shape.shape),
                dtype=str(shape.dtype),
                rule=next(p for p in patterns if re.fullmatch(p, name)),
                spec=" ".join(str(axis or "·") for axis in spec) if any(spec) else "copy",
                whole=_bytes(shape.shape, shape.dtype),
                device=_bytes(placed[name].shard_shape(shape.shape), shape.dtype),
            )
        )
    return sorted(lines, key=lambda line: (-line.device, line.name))


def state_bytes(program: Program) -> tuple[int, int]:
    """Returns the bytes of the whole state, and of what each device holds of it."""
    pairs = list(zip(jax.tree.leaves(program.shapes), jax.tree.leaves(program.placed), strict=True))
    whole = sum(_bytes(shape.shape, shape.dtype) for shape, _ in pairs)
    device = sum(_bytes(where.shard_shape(shape.shape), shape.dtype) for shape, where in pairs)
    return whole, device


def report_sharding(program: Program, rules: Rules, workdir: Path) -> None:
    """Logs the totals, names large copies, and writes `sharding.md` from the first process."""
    lines = describe_sharding(program, rules)
    whole, device = state_bytes(program)
    parameters = sum(line.device for line in lines)
    logging.info(
        "state of %s: %s on each device, %s of it parameters; each one in sharding.md",
        _said(whole),
        _said(device),
        _said(parameters),
    )
    if program.mesh.shape["fsdp"] > 1:
        copies = [x for x in lines if x.device == x.whole and x.device > LARGE]
        if copies:
            shown = ", ".join(f"{x.name} {_said(x.device)}" for x in copies[:5])
            more = f" and {len(copies) - 5} more" if len(copies) > 5 else ""
            logging.warning(
                "mesh.fsdp = %d, yet each device has a copy of %s%s: no axis that its rule names "
                "divides; see sharding.md",
                program.mesh.shape["fsdp"],
                shown,
                more,
            )
    if jax.process_index() == 0:
        with atomic_write(workdir / "sharding.md") as aside:
            aside.write_text(_markdown(program, lines), encoding="utf-8")


def _markdown(program: Program, lines: list[Placed]) -> str:
    whole, device = state_bytes(program)
    mesh = " × ".join(f"{axis} {size}" for axis, size in program.mesh.shape.items())
    head = [
        "# Where the parameters lie",
        "",
        f"Mesh: {mesh}. {len(lines)} parameters of {_said(sum(x.whole for x in lines))}, "
        f"{_said(sum(x.device for x in lines))} on each device. With what the optimiser keeps: "
        f"{_said(whole)}, {_said(device)} on each device.",
        "",
        "| parameter | shape | type | rule | on mesh axes | bytes a device |",
        "|---|---|---|---|---|---:|",
    ]
    rows = [
        f"| {x.name} | {'×'.join(map(str, x.shape)) or 'scalar'} | {x.dtype} "
        f"| `{x.rule.replace('|', chr(92) + '|')}` | {x.spec} | {x.device:,} |"
        for x in lines
    ]
    return "\n".join([*head, *rows]) + "\n"


def _bytes(shape: tuple[int, ...], dtype: Any) -> int:
    return math.prod(shape) * dtype.itemsize


def _said(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"

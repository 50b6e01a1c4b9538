"""Remakes `launch/plans.md`: what the library's trainings take on the TPUs that people rent.

    python -m launch.plans              compiles what `launch/plans.json` does not hold yet
    python -m launch.plans --list       the cells, and which are there
    python -m launch.plans --only L/14  cells whose name holds this text
    python -m launch.plans --table      writes the table again from the numbers, compiles nothing

Needs `pip install -e '.[tpu-plan]'`, no TPU; about a CPU minute a cell. Every cell is one
`openseg plan` in a process of its own, and is kept as soon as it is there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.plans_table import write_table
from openseg_jax.errors import UserError
from openseg_jax.files import atomic_write
from openseg_jax.plan.chips import GIB
from openseg_jax.plan.topology import Machine, parse

HERE = Path(__file__).parent
NUMBERS, TABLE = HERE / "plans.json", HERE / "plans.md"
MACHINES = ("v5e-256", "v5e-64", "v5e-16", "v4-512", "v6e-256", "v5p-128")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table for each machine.

    Attributes:
        name: of the experiment. batch: examples a step.
        arguments: of `openseg plan`.
        rows: that a chip of 16 GiB works on at once; more memory takes more. None: all of them.
        state: bytes of the whole training state, for the choice of fsdp.
    """

    name: str
    batch: int
    arguments: tuple[str, ...]
    rows: int | None = None
    state: float = 0.0


def _clip(name: str, model: str, rows: int, millions: float) -> list[Row]:
    config = ("--config", "clip_finetune", "--set", f"init={model}")
    # Parameters, their average and two moments of Adam, in float32.
    return [Row(name, n, config, rows, 16e6 * millions) for n in (32768, 16384, 65536)]


_SEGCLIP = ("--config", "segclip_pretrain:bf16", "--set", "remat=full")
_MAFT2 = ("--config", "maft_stage2:bf16", "--set", "init=ViT-B-16", "--set", "remat=full")
ROWS: tuple[Row, ...] = (
    *_clip("CLIP ViT-L/14", "ViT-L-14", 128, 427.6),
    *_clip("CLIP ViT-B/16", "ViT-B-16", 256, 149.6),
    *_clip("CLIP ViT-H/14", "ViT-H-14", 64, 986.1),
    Row("SegCLIP ViT-B/16", 768, _SEGCLIP),
    Row("SegCLIP ViT-B/16", 8192, _SEGCLIP),
    Row("MAFT stage 1", 16, ("--config", "maft_stage1:bf16")),
    Row("MAFT stage 2", 16, _MAFT2),
    Row("CaR ViT-B/16 + L/14", 1, ("--inference", "car")),
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """A row on a machine; `exact` compiles it with full effort, as the run itself does."""

    row: Row
    topology: str
    exact: bool = False

    @property
    def machine(self) -> Machine:
        """The machine."""
        return parse(self.topology)

    @property
    def key(self) -> str:
        """Its name in the file of numbers."""
        words = [self.row.name, str(self.row.batch), self.topology]
        return " | ".join([*words, "full effort"] if self.exact else words)

    @property
    def inference(self) -> bool:
        """Whether it is planned for one device."""
        return "--inference" in self.row.arguments

    def choices(self) -> tuple[int, int]:
        """Chooses (fsdp, accumulate) by the rule that the table states."""
        machine = self.machine
        usable = machine.chip.usable
        fsdp = 1
        while self.row.state / fsdp > 0.5 * usable:
            fsdp *= 2
        if self.row.rows is None:
            return fsdp, 1
        more = 1
        while more * 2 * 15.75 * GIB <= usable * 1.02:
            more *= 2
        accumulate, most = 1, self.row.rows * more * machine.devices
        while self.row.batch > most * accumulate // (2 if accumulate > 1 else 1):
            accumulate *= 2
        return fsdp, accumulate

    def command(self) -> list[str]:
        """Builds the arguments of `openseg plan`."""
        words = ["--topology", self.topology, *self.row.arguments]
        if self.inference:
            return [*words, "--batch", str(self.row.batch)]
        fsdp, accumulate = self.choices()
        words += ["--batch", str(self.row.batch), "--accumulate", str(accumulate)]
        if fsdp > 1:
            words += ["--mesh", f"fsdp={fsdp}"]
        return [*words, "--no-search", *(["--exact"] if self.exact else [])]


def cells() -> list[Cell]:
    """Lists all cells, what people ask for first first."""
    found = [Cell(row, topology) for topology in MACHINES for row in ROWS]
    # What least effort leaves out is seen where the two are beside one another.
    found.append(Cell(ROWS[0], MACHINES[0], exact=True))
    kinds: set[tuple[str, str]] = set()
    kept = []
    for cell in found:
        # One device is the same in every slice of its kind.
        kind = (cell.row.name, cell.machine.chip.name)
        if cell.inference and kind in kinds:
            continue
        kinds.add(kind)
        kept.append(cell)
    return sorted(kept, key=_order)


# What is compiled first where time is short: by the start of a cell's name.
_FIRST = (
    "MAFT stage 1 | 16 | v5e-256", "CLIP ViT-L/14 | 32768", "CLIP ViT-B/16 | 32768",
    "CLIP ViT-H/14 | 32768", "MAFT", "SegCLIP", "CLIP", "CaR",
)  # fmt: skip


def _order(cell: Cell) -> tuple[int, int]:
    found = [i for i, start in enumerate(_FIRST) if cell.key.startswith(start)]
    return (found[0] if found else len(_FIRST), MACHINES.index(cell.topology))


def refusal(cell: Cell) -> str | None:
    """Says why a run cannot be set up so, where that takes no compiler; else None."""
    if cell.inference:
        return None
    from openseg_jax.cli.train import load_config
    from openseg_jax.plan.training import check_batch

    words = cell.row.arguments
    config: Any = load_config(words[words.index("--config") + 1])
    config.batch_size, config.accumulate = cell.row.batch, cell.choices()[1]
    try:
        check_batch(config, cell.machine.devices)
    except UserError as error:
        return str(error)
    return None


def make(cell: Cell) -> dict[str, Any]:
    """Runs `openseg plan` for a cell.

    Returns:
        its numbers, or {"refused": why} for a run that cannot be set up so.
    """
    command = cell.command()
    why = refusal(cell)
    if why is not None:
        return {"command": "openseg plan " + " ".join(command), "refused": why}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.json"
        words = [sys.executable, "-m", "openseg_jax.cli.main", "plan", *command]
        done = subprocess.run(
            [*words, "--json", str(file)], capture_output=True, text=True, check=False,
            cwd=HERE.parent,
        )  # fmt: skip
        shown = "openseg plan " + " ".join(command)
        if file.exists():
            return {"command": shown, **json.loads(file.read_text(encoding="utf-8"))}
    complaint = done.stderr.strip().splitlines()
    why = complaint[-1].removeprefix("openseg: ") if complaint else f"exit code {done.returncode}"
    if done.returncode != 2:
        raise RuntimeError(f"{shown}: {why}")
    return {"command": shown, "refused": why}


def read() -> dict[str, Any]:
    """Reads the numbers that are there."""
    return json.loads(NUMBERS.read_text(encoding="utf-8")) if NUMBERS.exists() else {}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m launch.plans", description=__doc__)
    parser.add_argument("--list", action="store_true", help="list the cells and leave")
    parser.add_argument("--table", action="store_true", help="only write the table again")
    parser.add_argument("--only", default="", help="cells whose name holds this text")
    parser.add_argument("--again", action="store_true", help="also cells that are there")
    args = parser.parse_args(argv)
    failed = 0
    for cell in cells():
        if args.only not in cell.key:
            continue
        kept = read()
        there = kept.get(cell.key, {}).get("command") == "openseg plan " + " ".join(cell.command())
        if args.list or args.table or (there and not args.again):
            if args.list:
                print("there  " if there else "missing", cell.key, *cell.command())
            continue
        print(cell.key, flush=True)
        try:
            made = make(cell)
        except RuntimeError as error:
            failed += 1
            print(f"  failed: {error}", flush=True)
            continue
        # Another one of us may have added cells meanwhile.
        kept = {**read(), cell.key: made}
        with atomic_write(NUMBERS) as aside:
            aside.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if not args.list:
        with atomic_write(TABLE) as aside:
            aside.write_text(write_table(ROWS, MACHINES, read()), encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

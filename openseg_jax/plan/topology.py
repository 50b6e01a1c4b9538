"""Names of machines: `v5e:16x16`, `v5e-256`, `v4-512`, `h100:8`, `a100:8x4`."""

from __future__ import annotations

import dataclasses
import math
import re

from openseg_jax.errors import UserError, expected, unknown_name
from openseg_jax.plan.chips import CHIPS, Chip

# Chips along each axis for a number of chips, as Google's pages list the slices; a torus needs
# axes in multiples of four.
_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_SOLID = {
    4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8",
    512: "8x8x8", 1024: "8x8x16", 2048: "8x16x16",
}  # fmt: skip
_PATTERN = re.compile(r"([a-z0-9]+)([:-])(\d+(?:x\d+)*)")


@dataclasses.dataclass(frozen=True)
class Machine:
    """A machine that a program is planned for.

    Attributes:
        name: as the user wrote it.
        chip: what it is made of.
        shape: chips along each axis of a TPU's torus; for GPUs (cards a box, boxes).
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """Counts the chips, what is paid for."""
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        """Counts what JAX lists as devices."""
        return self.chips * self.chip.per_chip

    @property
    def full(self) -> str:
        """The name with its shape, `v5e:16x16`."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"


def names_of(chip: Chip) -> dict[str, str]:
    """Lists the short names of a kind of TPU with the shapes that they stand for."""
    sizes = _FLAT if chip.axes == 2 else _SOLID
    factor = 2 if chip.counts == "cores" else 1
    return {f"{chip.name}-{n * factor}": f"{chip.name}:{s}" for n, s in sizes.items()}


def topologies() -> dict[str, str]:
    """Lists all short names with what they stand for."""
    found: dict[str, str] = {}
    for chip in CHIPS.values():
        if chip.kind == "tpu":
            found.update(names_of(chip))
        else:
            found.update({f"{chip.name}:{n}": f"{n} cards in one box" for n in (1, 8)})
            found[f"{chip.name}:8x4"] = "8 cards in each of 4 boxes"
    return found


def parse(name: str) -> Machine:
    """Reads a topology's name.

    `CHIP:AxB` gives the chips along each axis of a TPU slice, or cards a box and boxes of a GPU
    cluster. `CHIP-N` is Google's name: N counts chips for v5e and v6e, TensorCores (two a chip)
    for v4, v5p and tpu7x.

    Raises:
        UserError: for a name of no machine, with the closest one.
    """
    found = _PATTERN.fullmatch(name.strip().lower())
    if found is None:
        unknown_name(name, topologies(), "--topology")
    kind, mark, size = found.groups()
    kind = {"v5litepod": "v5e", "v7x": "tpu7x"}.get(kind, kind)
    if kind not in CHIPS:
        unknown_name(name, topologies(), "--topology")
    chip = CHIPS[kind]
    if mark == "-":
        short = f"{kind}-{size}"
        if chip.kind == "gpu":
            raise expected(
                "--topology", f"cards a box after a colon ({kind}:8, {kind}:8x4)", repr(name),
                "correct it",
            )  # fmt: skip
        if short not in names_of(chip):
            unknown_name(name, names_of(chip), "--topology")
        size = names_of(chip)[short].partition(":")[2]
    shape: tuple[int, ...] = tuple(int(n) for n in size.split("x"))
    return Machine(name, chip, _checked(name, chip, shape))


def _checked(name: str, chip: Chip, shape: tuple[int, ...]) -> tuple[int, ...]:
    if min(shape) < 1:
        raise expected("--topology", "sizes of 1 or more", repr(name), "correct it")
    if chip.kind == "gpu":
        cards, *boxes = shape
        if len(boxes) > 1 or cards > chip.pod:
            raise expected(
                "--topology", f"at most {chip.pod} cards a box, then boxes ({chip.name}:8x4)",
                repr(name), "correct it",
            )  # fmt: skip
        return (cards, *(boxes or [1]))
    if len(shape) != chip.axes:
        example = names_of(chip)[min(names_of(chip), key=lambda n: abs(len(n) - len(name)))]
        raise expected(
            "--topology", f"{chip.axes} axes for {chip.name}, as in {example}", repr(name),
            "correct it",
        )  # fmt: skip
    if math.prod(shape) * chip.per_chip > chip.pod:
        raise UserError(
            f"--topology: {chip.name} slices have at most {chip.pod // chip.per_chip} chips, got "
            f"{math.prod(shape)} in {name!r}; take a smaller one"
        )
    return shape

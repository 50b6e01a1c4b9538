"""Reads the text of a compiled program: computations, instructions, calls and loops.

XLA's own `cost_analysis` counts the body of a loop once, however often it runs. Here every
computation gets the number of times that it is executed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

BYTES = {
    "pred": 1, "s2": 1, "u2": 1, "s4": 1, "u4": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2,
    "bf16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
_SHAPE = re.compile(r"\b([a-z][a-z0-9]*)\[([\d,<=]*)\](\{[^{}]*\})?")
_HEADER = re.compile(r"^(ENTRY\s+)?%?([\w.\-]+)\s*\(.*\)\s*->\s*.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT\s+)?%?([\w.\-]+)\s+=\s+")
_CALLS = re.compile(
    r"\b(calls|to_apply|body|condition|branch_computations|true_computation|false_computation|"
    r"called_computations)=(\{[^{}]*\}|%?[\w.\-]+)"
)
_TRIPS = re.compile(r"known_trip_count[\"']?\s*[:=]\s*\{\s*\"?n\"?\s*:\s*\"?(\d+)")


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array of an instruction's result.

    Attributes:
        dtype: XLA's name. dims: sizes. fast: it lies in the chip's own fast memory (a layout
            with S(1) or more), not in HBM.
    """

    dtype: str
    dims: tuple[int, ...]
    fast: bool = False

    @property
    def size(self) -> int:
        """Counts the numbers."""
        n = 1
        for dim in self.dims:
            n *= dim
        return n

    @property
    def bytes(self) -> int:
        """Counts the bytes, without the padding of tiles. Tokens and opaque types have none."""
        return self.size * BYTES.get(self.dtype, 1 if self.dtype.startswith("f8") else 0)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name, opcode: as printed.
        shapes: of the result, a tuple's parts in order.
        operands: names of instructions of the same computation.
        literal: what stands between the brackets, for constants and parameters.
        attributes: the rest of the line.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    literal: str
    attributes: str

    @property
    def calls(self) -> dict[str, tuple[str, ...]]:
        """Names the computations that it calls, by the attribute that names them."""
        return {
            key: tuple(re.findall(r"[\w.\-]+", value))
            for key, value in _CALLS.findall(self.attributes)
        }


@dataclasses.dataclass
class Computation:
    """A list of instructions with a root."""

    name: str
    instructions: dict[str, Instruction]
    root: str = ""


@dataclasses.dataclass(frozen=True)
class Module:
    """A program. `entry` names the computation that runs; `partitions` counts the devices."""

    computations: dict[str, Computation]
    entry: str
    partitions: int


def _closing(text: str, start: int) -> int:
    """Finds the bracket that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        if text[i] == "(":
            depth += 1
        elif text[i] == ")":
            depth -= 1
            if depth == 0:
                return i
    raise ValueError(f"no closing bracket in {text[start : start + 60]!r}")


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """Reads `f32[2,3]{1,0}` or a tuple of such."""
    return tuple(
        Shape(
            dtype,
            tuple(int(d.strip("<=")) for d in dims.split(",") if d),
            bool(re.search(r"S\([1-9]", layout or "")),
        )
        for dtype, dims, layout in _SHAPE.findall(text)
    )


def _instruction(line: str, start: int, name: str) -> Instruction:
    end = _closing(line, start) + 1 if line[start] == "(" else line.index(" ", start)
    shape = line[start:end]
    bracket = line.index("(", end)
    opcode = line[end:bracket].strip()
    close = _closing(line, bracket)
    inside, rest = line[bracket + 1 : close], line[close + 1 :]
    operands: tuple[str, ...] = ()
    if opcode not in ("constant", "parameter", "iota"):
        bare = re.sub(r"/\*.*?\*/", "", inside)
        operands = tuple(re.findall(r"%([\w.\-]+)", bare))
        if not operands and bare.strip():
            operands = tuple(part.split()[-1] for part in bare.split(",") if part.strip())
    return Instruction(name, opcode, parse_shapes(shape), operands, inside, rest)


def parse(text: str) -> Module:
    """Reads the output of `compiled.as_text()`.

    Raises:
        ValueError: for text that is not a program.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", None
    found = re.search(r"num_partitions=(\d+)", text[: text.find("\n") + 1] or text)
    for line in text.splitlines():
        header = _HEADER.match(line) if line[:1] not in (" ", "") else None
        if header is not None:
            current = Computation(header[2], {})
            computations[current.name] = current
            if header[1]:
                entry = current.name
            continue
        matched = _INSTRUCTION.match(line)
        if current is None or matched is None:
            continue
        made = _instruction(line, matched.end(), matched[2])
        current.instructions[made.name] = made
        if matched[1]:
            current.root = made.name
    if not entry:
        raise ValueError("expected the text of a compiled program, found no ENTRY")
    return Module(computations, entry, int(found[1]) if found else 1)


def _through(computation: Computation, name: str) -> Instruction | None:
    """Follows copies and bitcasts back to what made a value."""
    made = computation.instructions.get(name)
    while made is not None and made.opcode in (
        "copy", "bitcast", "convert", "copy-done", "copy-start",
    ) and made.operands:  # fmt: skip
        made = computation.instructions.get(made.operands[0])
    return made


def _number(computation: Computation, name: str) -> int | None:
    made = _through(computation, name)
    if made is None or made.opcode != "constant":
        return None
    found = re.fullmatch(r"-?\d+", made.literal.strip())
    return int(found[0]) if found else None


def _inline(module: Module, computation: Computation, root: Instruction) -> list[tuple]:
    """Lists (computation, instruction, argument names outside) where a root may be fused."""
    if root.opcode != "fusion":
        return [(computation, root, None)]
    inner = module.computations[root.calls["calls"][0]]
    return [(inner, inner.instructions[inner.root], root.operands)]


def _outer(inner: Computation, name: str, arguments: tuple[str, ...] | None) -> str | None:
    """Names, outside a fusion, the argument that a name inside stands for."""
    made = _through(inner, name)
    if made is None:
        return None
    if arguments is None:
        return made.name
    return arguments[int(made.literal)] if made.opcode == "parameter" else None


def _place(computation: Computation, name: str | None) -> int | None:
    """Tells which part of the loop's state a name reads."""
    made = _through(computation, name) if name else None
    if made is None or made.opcode != "get-tuple-element":
        return None
    found = re.search(r"index=(\d+)", made.attributes)
    return int(found[1]) if found else None


def trip_count(module: Module, computation: Computation, loop: Instruction) -> int | None:
    """Tells how often a loop's body runs; None where that depends on data.

    XLA writes `known_trip_count` on some platforms. Elsewhere (TPU) it follows from the
    condition `i < limit`, the start of i and what the body adds to it.
    """
    known = _TRIPS.search(loop.attributes)
    if known:
        return int(known[1])
    calls = loop.calls
    condition = module.computations[calls["condition"][0]]
    body = module.computations[calls["body"][0]]
    for inner, compare, arguments in _inline(
        module, condition, condition.instructions[condition.root]
    ):
        if compare.opcode != "compare" or len(compare.operands) != 2:
            return None
        places, limits = [], []
        for operand in compare.operands:
            number = _number(inner, operand)
            outside = _outer(inner, operand, arguments)
            if number is None and outside is not None:
                number = _number(condition, outside)
            limits.append(number)
            places.append(_place(condition, outside))
    direction = re.search(r"direction=(\w+)", compare.attributes)
    start = computation.instructions.get(loop.operands[0])
    if direction is None or start is None or start.opcode != "tuple":
        return None
    forward = direction[1] in ("LT", "LE")
    counter, limit = (0, 1) if forward else (1, 0)
    place, end = places[counter], limits[limit]
    if place is None or direction[1] not in ("LT", "LE", "GT", "GE"):
        return None
    if end is None:
        # The limit may be carried along unchanged in the loop's state.
        where = places[limit]
        end = None if where is None else _number(computation, start.operands[where])
    begin = _number(computation, start.operands[place])
    if begin is None or end is None:
        return None
    step = _step(module, body, place)
    span = end - begin + (direction[1] in ("LE", "GE"))
    return max(0, -(-span // step))


def _step(module: Module, body: Computation, place: int) -> int:
    """Tells what the body adds to its counter; 1 where that cannot be read."""
    root = body.instructions[body.root]
    if root.opcode != "tuple" or place >= len(root.operands):
        return 1
    made = _through(body, root.operands[place])
    if made is None:
        return 1
    for inner, instruction, arguments in _inline(module, body, made):
        if instruction.opcode != "add":
            return 1
        for operand in instruction.operands:
            number = _number(inner, operand)
            outside = _outer(inner, operand, arguments)
            if number is None and outside is not None:
                number = _number(body, outside)
            if number:
                return abs(number)
    return 1


@dataclasses.dataclass(frozen=True)
class Executed:
    """An instruction with how often it runs.

    Attributes:
        computation, instruction: where and what.
        times: executions of a step; of a loop on data, one round is counted.
        outer: the computation that is not fused in which it happens.
        fused: it is part of a fusion, whose values never reach memory.
    """

    computation: Computation
    instruction: Instruction
    times: int
    outer: str
    fused: bool


@dataclasses.dataclass
class Walk:
    """All executed instructions, and the loops whose number of rounds depends on data."""

    executed: list[Executed]
    loops: dict[str, int]
    unknown: list[str]


def walk(module: Module) -> Walk:
    """Visits every computation as often as it runs, from the entry down."""
    found = Walk([], {}, [])
    for executed in _visit(module, module.entry, 1, module.entry, False, found):
        found.executed.append(executed)
    return found


def _visit(
    module: Module, name: str, times: int, outer: str, fused: bool, found: Walk
) -> Iterator[Executed]:
    computation = module.computations[name]
    for made in computation.instructions.values():
        yield Executed(computation, made, times, outer, fused)
        calls = made.calls
        if made.opcode == "while":
            trips = trip_count(module, computation, made)
            found.loops[made.name] = trips or 1
            if trips is None:
                found.unknown.append(made.name)
            inside = times * (1 if trips is None else trips)
            body = calls["body"][0]
            yield from _visit(module, body, inside, body, fused, found)
            continue
        if made.opcode.endswith(("-done", "-update")):
            continue
        for key, names in calls.items():
            # What a reduction, a sort or a scatter applies to each pair holds no products.
            if key == "to_apply" and made.opcode != "call":
                continue
            inner = fused or made.opcode == "fusion"
            for called in names:
                if called in module.computations:
                    where = outer if inner else called
                    yield from _visit(module, called, times, where, inner, found)

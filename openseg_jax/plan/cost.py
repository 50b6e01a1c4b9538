"""What a compiled program does in a step: products, exchange between devices, traffic to memory."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from openseg_jax.plan.hlo import Computation, Executed, Instruction, Module, Shape, Walk, walk

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
# Bytes that one of n devices sends for B bytes of its operand, by the ring algorithm.
RING = {
    "all-reduce": "2·(n−1)/n·B",
    "all-gather": "(n−1)·B",
    "reduce-scatter": "(n−1)/n·B",
    "collective-permute": "B",
    "all-to-all": "(n−1)/n·B",
}


@dataclasses.dataclass(frozen=True)
class Exchange:
    """One collective of a program.

    Attributes:
        kind: one of `KINDS`. group: devices that take part together. times: executions a step.
        operand: bytes of one device's input, once. sent: bytes that one device sends in a step.
        dtypes: of the operands. source: the operation that asked for it, as JAX names it.
    """

    kind: str
    group: int
    times: int
    operand: int
    sent: float
    dtypes: tuple[str, ...]
    source: str


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one device does in a step.

    Attributes:
        flops: of matrix products and convolutions, loops counted as often as they run.
        traffic: bytes between HBM and chip, see `traffic_of`.
        exchanges: the collectives.
        loops: how many there are. unknown: those whose rounds depend on data, counted once.
        kernels: custom calls whose inside cannot be counted.
    """

    flops: float
    traffic: float
    exchanges: tuple[Exchange, ...]
    loops: int
    unknown: tuple[str, ...]
    kernels: int

    def sent(self) -> dict[str, float]:
        """Sums the bytes sent by kind."""
        found: dict[str, float] = {}
        for e in self.exchanges:
            found[e.kind] = found.get(e.kind, 0.0) + e.sent
        return found


def _operand(executed: Executed, i: int) -> Shape:
    made = executed.computation.instructions[executed.instruction.operands[i]]
    return made.shapes[0]


def _numbers(text: str, key: str) -> tuple[int, ...]:
    found = re.search(rf"{key}=\{{([\d,]*)\}}", text)
    return tuple(int(n) for n in found[1].split(",") if n) if found else ()


def dot_flops(left: Shape, out: Shape, attributes: str) -> float:
    """Counts 2 · |result| · |contracted axes|."""
    inner = math.prod(left.dims[i] for i in _numbers(attributes, "lhs_contracting_dims"))
    return 2.0 * out.size * inner


def _valid_pairs(
    inputs: int, outputs: int, taps: int, stride: int, pad: int, base: int, dilate: int
) -> float:
    """Counts the (output, tap) pairs of one axis that meet an input and no zero between inputs.

    Output o and tap t meet position o·stride + t·dilate − pad of the inputs with `base` − 1 zeros
    after each. Not by trying all pairs: the axes that hold a batch have as many taps as rows.
    """
    offset = np.arange(taps, dtype=np.int64) * dilate - pad
    common = math.gcd(stride, base)
    period, step = base // common, stride // common
    # o·stride ≡ −offset (mod base) has one solution in each period, or none.
    solvable = offset % common == 0
    inverse = pow(step, -1, period) if period > 1 else 0
    first = (-offset // common * inverse) % period
    low = np.maximum(0, -(offset // stride))
    high = np.minimum(outputs - 1, ((inputs - 1) * base - offset) // stride)
    low = low + (first - low) % period
    count = np.where(solvable & (high >= low), (high - low) // period + 1, 0)
    return float(count.sum())


def convolution_flops(left: Shape, right: Shape, out: Shape, attributes: str) -> float:
    """Counts the products of a convolution, without those with zeros of padding and dilation.

    TPU programs write every matrix product as a convolution, batched ones with a dilation that
    makes all but one tap fall on zeros: those must not count.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    if labels is None:
        return 0.0
    window = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=", 1) for part in window[1].split()) if window else {}
    inputs, kernel, result = labels.groups()
    axes = sorted(c for c in result if c.isdigit())

    def values(key: str, default: int) -> list[int]:
        return [int(v) for v in fields[key].split("x")] if key in fields else [default] * len(axes)

    sizes, strides = values("size", 1), values("stride", 1)
    base, dilate = values("lhs_dilate", 1), values("rhs_dilate", 1)
    pads = [int(p.split("_")[0]) for p in fields["pad"].split("x")] if "pad" in fields else []
    pads = pads or [0] * len(axes)
    pairs = 1.0
    for i, axis in enumerate(axes):
        n, m = left.dims[inputs.index(axis)], out.dims[result.index(axis)]
        pairs *= _valid_pairs(n, m, sizes[i], strides[i], pads[i], base[i], dilate[i])
    groups = re.search(r"batch_group_count=(\d+)", attributes)
    batch = out.dims[result.index("b")] if groups is None else left.dims[inputs.index("b")]
    share = int(groups[1]) if groups else 1
    features = out.dims[result.index("f")]
    return 2.0 * batch / share * features * right.dims[kernel.index("i")] * pairs


def _flops(executed: Executed) -> float:
    made = executed.instruction
    if made.opcode == "dot":
        return dot_flops(_operand(executed, 0), made.shapes[0], made.attributes)
    if made.opcode == "convolution":
        left, right = _operand(executed, 0), _operand(executed, 1)
        return convolution_flops(left, right, made.shapes[0], made.attributes)
    return 0.0


def group_size(attributes: str, devices: int) -> int:
    """Reads how many devices a collective joins, in any of XLA's three notations."""
    named = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:,\s*device_ids=\([^{]*\))?\s*\{([^}]*)\}", attributes
    )
    if named:
        sizes = {k: int(v) for k, v in re.findall(r"'([^']+)'=(\d+)", named[1])}
        parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part) if part else sizes[axis] for axis, part in parts)
    counted = re.search(r"replica_groups=\[(\d+),(\d+)\]<=", attributes)
    if counted:
        return int(counted[2])
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", attributes)
    return len(listed[1].split(",")) if listed else devices


def sent_bytes(kind: str, operand: float, group: int) -> float:
    """Computes what one device sends for an operand of so many bytes, by `RING`."""
    n = group
    factor = {
        "all-reduce": 2.0 * (n - 1) / n,
        "all-gather": n - 1.0,
        "reduce-scatter": (n - 1.0) / n,
        "all-to-all": (n - 1.0) / n,
        "collective-permute": 1.0,
    }
    return factor[kind] * operand


def _exchanges(module: Module, found: Walk) -> tuple[Exchange, ...]:
    seen: set[tuple[str, str]] = set()
    exchanges = []
    for executed in found.executed:
        made = executed.instruction
        kind = made.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        channel = re.search(r"channel_id=(\d+)", made.attributes)
        if executed.fused and channel:
            # One exchange that runs beside products stands in each of their fusions.
            if (executed.outer, channel[1]) in seen:
                continue
            seen.add((executed.outer, channel[1]))
        shapes = [_operand(executed, i) for i in range(len(made.operands))]
        operand = sum(s.bytes for s in shapes)
        group = group_size(made.attributes, module.partitions)
        if group < 2 and kind != "collective-permute":
            continue
        source = re.search(r'op_name="([^"]*)"', made.attributes)
        exchanges.append(
            Exchange(
                kind, group, executed.times, operand,
                executed.times * sent_bytes(kind, operand, group),
                tuple(sorted({s.dtype for s in shapes})), source[1] if source else "",
            )
        )  # fmt: skip
    return tuple(exchanges)


# What moves nothing by itself: names for parts of other values, and calls whose inside is walked.
_FREE = frozenset((
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "iota", "optimization-barrier",
    "add-dependency", "async-start", "async-update", "async-done", "opt-barrier",
))  # fmt: skip


def traffic_of(executed: Executed, computations: Mapping[str, Computation]) -> float:
    """Estimates the bytes that an instruction reads from HBM and writes to it.

    Operands and result, less what lies in the chip's fast memory; of an operand that is only
    sliced, the slice; of one that is updated in place, the update.
    """
    made, here = executed.instruction, executed.computation
    if executed.fused or made.opcode in _FREE or made.opcode.endswith("-done"):
        return 0.0
    out = sum(s.bytes for s in made.shapes if not s.fast)
    if made.opcode == "dynamic-slice":
        return 2.0 * out
    if made.opcode == "dynamic-update-slice":
        return 2.0 * here.instructions[made.operands[1]].shapes[0].bytes
    if made.opcode in ("copy-start", "slice-start"):
        first, second = made.shapes[1], made.shapes[0]
        return sum(s.bytes for s in (first, second) if not s.fast)
    inner = computations[made.calls["calls"][0]] if made.opcode == "fusion" else None
    total = float(_written(inner, made) if inner else out)
    for i, name in enumerate(made.operands):
        source = here.instructions.get(name)
        if source is None:
            continue
        size = sum(s.bytes for s in source.shapes if not s.fast)
        total += _read(inner, i, size) if inner else size
    return total


def _written(inner: Computation, made: Instruction) -> int:
    root = inner.instructions[inner.root]
    parts = root.operands if root.opcode == "tuple" else (root.name,)
    total = 0
    for shape, name in zip(made.shapes, parts, strict=False):
        part = inner.instructions.get(name)
        if part is not None and part.opcode == "dynamic-update-slice":
            shape = inner.instructions[part.operands[1]].shapes[0]
        total += 0 if shape.fast else shape.bytes
    return total


def _read(inner: Computation, index: int, size: int) -> int:
    for name, made in inner.instructions.items():
        if made.opcode != "parameter" or made.literal.strip() != str(index):
            continue
        users = [u for u in inner.instructions.values() if name in u.operands]
        if users and all(
            u.opcode == "dynamic-slice" or (u.opcode == "dynamic-update-slice" and
                                            u.operands[0] == name)
            for u in users
        ):  # fmt: skip
            sliced = sum(u.shapes[0].bytes for u in users if u.opcode == "dynamic-slice")
            return min(size, sliced)
    return size


def cost_of(module: Module) -> Cost:
    """Counts everything of a parsed program."""
    found = walk(module)
    flops = traffic = 0.0
    kernels = 0
    for executed in found.executed:
        flops += executed.times * _flops(executed)
        traffic += executed.times * traffic_of(executed, module.computations)
        target = executed.instruction.opcode == "custom-call" and re.search(
            r'custom_call_target="(tpu_custom_call|__cudnn[^"]*|__cublas[^"]*)"',
            executed.instruction.attributes,
        )
        kernels += bool(target)
    return Cost(
        flops, traffic, _exchanges(module, found), len(found.loops), tuple(found.unknown), kernels
    )

"""A plan as text for people and as a dict for JSON."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from openseg_jax.models.remat import remat_name
from openseg_jax.plan.compiled import Measured, gib
from openseg_jax.plan.cost import RING
from openseg_jax.plan.roofline import gradient_bound, roofline
from openseg_jax.plan.topology import Machine
from openseg_jax.plan.training import Largest, Planned
from openseg_jax.train.sharding import BATCH_AXES

# Below this an exchange gets no line of its own.
_SMALL = 0.005


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  " + "  ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)).rstrip()
            for row in rows]  # fmt: skip


def machine_line(machine: Machine) -> str:
    """Says what a topology is."""
    chip = machine.chip
    what = "cards" if chip.kind == "gpu" else "chips"
    devices = "" if chip.per_chip == 1 else f", {machine.devices} devices"
    return (
        f"{machine.full}: {machine.chips} {what}{devices}; a device has {gib(chip.hbm)} of memory "
        f"({gib(chip.usable)} for programs), {chip.flops / 1e12:.0f} TFLOP/s in bfloat16, "
        f"{chip.hbm_rate / 1e9:.0f} GB/s to memory, {chip.link_rate / 1e9:.0f} GB/s to others"
    )


def memory_lines(m: Measured) -> list[str]:
    """Lists what a device holds."""
    if m.memory is None:
        return [
            f"memory a device: {gib(m.needed)} needed, {gib(m.limit)} there: DOES NOT FIT",
            f"  state and frozen parameters {gib(m.state)}, batch {gib(m.batch)}, "
            f"the rest activations {gib(max(0, m.needed - m.state - m.batch))}",
        ]
    x = m.memory
    verdict = "fits" if m.fits else "DOES NOT FIT"
    share = m.needed / m.limit
    lines = [
        f"memory a device: {gib(m.needed)} of {gib(m.limit)} ({share:.0%}): {verdict}",
        *_table([
            ("arguments", gib(x.arguments), f"state {gib(m.state)}, batch {gib(m.batch)}"),
            ("temporaries", gib(x.temps), "activations, gradients, exchange buffers"),
            ("outputs", gib(x.outputs), f"{gib(x.aliased)} of them in the place of arguments"),
            ("program", gib(x.code), ""),
        ]),
    ]  # fmt: skip
    if m.estimate:
        lines.append(
            "  an estimate: state and batch are exact, from the placements; temporaries are those "
            "of the same\n  partitioned program compiled for stand-in CPU devices, which fuse less "
            "and may hold bfloat16 as float32"
        )
    return lines


def flops_lines(m: Measured, model: float) -> list[str]:
    """Compares the three counts of FLOPs."""
    if m.cost is None:
        return [f"FLOPs a step: {m.traced:.4g} on all devices (traced), {model:.4g} of the model"]
    devices = m.machine.devices
    done, traced, needed = m.cost.flops, m.traced / devices, model / devices
    lines = [
        "FLOPs a device and step (matrix products and convolutions)",
        *_table([
            ("executed", f"{done / 1e12:.3f} T", "in the compiled program, loops by their rounds"),
            ("traced", f"{traced / 1e12:.3f} T",
             "in what JAX traced, recomputation included, shared evenly"),
            ("model", f"{needed / 1e12:.3f} T", "the same step without recomputation"),
        ]),
        f"  executed/traced {done / traced:.3f}: "
        + ("the compiler runs what was written" if abs(done / traced - 1) < 0.02 else
           "the compiler repeats work on devices, or drops and merges some"),
        f"  executed/model {done / needed:.3f}: what recomputation (remat, accumulate) costs",
    ]  # fmt: skip
    if m.cost.unknown:
        lines.append(
            f"  {len(m.cost.unknown)} loop(s) run as long as the data asks; one round is counted"
        )
    if m.cost.kernels:
        lines.append(f"  {m.cost.kernels} fused kernel(s) whose inside is not counted")
    return lines


def exchange_lines(m: Measured) -> list[str]:
    """Lists what a device sends in a step, by kind."""
    assert m.cost is not None
    if not m.cost.exchanges:
        return ["exchange: none"]
    total = sum(m.cost.sent().values())
    groups: dict[tuple[str, int], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for e in m.cost.exchanges:
        entry = groups[(e.kind, e.group)]
        entry[0] += e.sent
        entry[1] += e.operand * e.times
        entry[2] += e.times
    rows = [
        (kind, f"{sent / 1e9:.3f} GB sent", f"{raw / 1e9:.3f} GB operands",
         f"{int(times)} times" + (f" among {n}" if kind != "collective-permute" else ""),
         RING[kind])
        for (kind, n), (sent, raw, times) in sorted(groups.items(), key=lambda g: -g[1][0])
        if sent >= _SMALL * total
    ]  # fmt: skip
    return [
        f"exchange a device and step: {total / 1e9:.3f} GB sent, by ring algorithms "
        "(B: bytes of a device's operand)",
        *_table(rows),
    ]


def bound_lines(p: Planned) -> list[str]:
    """Compares the exchange with what no data-parallel step can do without."""
    copies = 1
    for axis in BATCH_AXES:
        copies *= p.mesh[axis]
    if copies < 2 or p.measured.cost is None:
        return []
    least = gradient_bound(p.gradient, copies)
    total = sum(p.measured.cost.sent().values())
    return [
        f"  least for gradients: 2·(n−1)/n · {p.gradient / 1e9:.3f} GB of {p.trained / 1e6:.1f} M "
        f"trained parameters = {least / 1e9:.3f} GB; this program sends {total / least:.2f} × that"
    ]


def roofline_lines(m: Measured, model: float) -> list[str]:
    """Lists the least times of a step."""
    assert m.cost is not None
    r = roofline(m.machine, m.cost, model)
    return [
        f"roofline: {r.time * 1e3:.1f} ms a step, bound by {r.bound}, at a utilisation of "
        f"{r.utilisation:.1%}; by products and exchange alone it is at most {r.most:.1%}",
        *_table([
            ("products", f"{r.compute * 1e3:.1f} ms", "at the peak rate"),
            ("memory", f"{r.memory * 1e3:.1f} ms", f"{m.cost.traffic / 1e9:.1f} GB, estimated"),
            ("exchange", f"{r.exchange * 1e3:.1f} ms", "not hidden behind products"),
        ]),
    ]  # fmt: skip


def advice(p: Planned) -> list[str]:
    """Says what to change for a step that does not fit."""
    c, m, found = p.config, p.measured, []
    if m.needed - m.state > 0.2 * m.needed:
        if p.rows > 1:
            # SegCLIP is not cut as CLIP is: see `accumulate` in configs/base.py.
            price = ", but each part has no negatives beyond its own" * (c.task.name == "segclip")
            found.append(f"--accumulate {c.accumulate * 2}: half the activations at once{price}")
        if remat_name(c.remat) == "none":
            found.append("--set remat=full: keep block inputs only, at a third more products")
        if c.dtype == "float32":
            found.append("--set dtype=bfloat16: half the bytes of activations")
        found.append(f"--batch {max(1, p.batch // 2)}: fewer examples a step")
    if m.state > 0.3 * m.limit:
        share = max(2, p.mesh["fsdp"] * 2)
        if p.mesh["data"] % 2 == 0:
            found.append(f"--mesh fsdp={share}: {share} devices share parameters and moments")
    found.append("a larger topology: rows and, with fsdp, the state are shared by more chips")
    return ["what to change:", *(f"  {line}" for line in found)]


def plan_text(p: Planned, largest: Largest | None = None, *, exact: bool = False) -> str:
    """Writes the whole plan."""
    m = p.measured
    mesh = " × ".join(f"{k} {v}" for k, v in p.mesh.items() if v > 1 or k == "data")
    c = p.config
    lines = [
        machine_line(m.machine),
        f"{c.name}: batch {p.batch}, {p.rows} rows a device at once, mesh {mesh}, accumulate "
        f"{c.accumulate}, remat {c.remat}, {c.dtype}, attention {c.attention}; "
        f"{p.parameters / 1e6:.1f} M parameters, {p.trained / 1e6:.1f} M trained",
        "",
        *memory_lines(m),
        *flops_lines(m, p.needed),
    ]
    if m.cost is not None:
        lines += [*exchange_lines(m), *bound_lines(p), *roofline_lines(m, p.needed)]
    if not m.fits:
        lines += advice(p)
    if largest is not None:
        lines.append(largest_line(largest))
    if m.machine.chip.kind == "tpu":
        effort = "full effort" if exact else "least effort (--exact takes the run's own)"
        lines.append(f"compiled by libtpu with {effort} in {m.seconds:.0f} s; nothing was run")
    lines += [f"numbers of the chip: {source}" for source in m.machine.chip.sources]
    return "\n".join(lines)


def inference_text(name: str, asked: Any, batch: int, m: Measured, model: float) -> str:
    """Writes the plan of a method's inference on one device."""
    with_second = f" and {asked.classifier}" if name == "car" else ""
    lines = [
        machine_line(m.machine),
        f"{name} on {asked.model}{with_second}: {batch} picture(s) of {asked.height}×{asked.width} "
        f"at once on one device, {asked.classes} classes, {asked.dtype}; devices exchange nothing",
        "",
        *memory_lines(m),
        *flops_lines(m, model),
    ]
    if m.cost is not None:
        lines += roofline_lines(m, model)
    if not m.fits:
        lines += ["what to change:", "  --batch, --set height=, --set width=: fewer pixels at once"]
    return "\n".join(lines)


def largest_line(largest: Largest) -> str:
    """Says which batch is the largest that fits, and how that is known."""
    if not largest.batch:
        return f"largest batch: none of those tried fits ({largest.compiles} more compiles)"
    if largest.capped:
        upper = "no larger one was asked for"
    elif largest.refused is None:
        upper = "larger ones were not tried"
    else:
        upper = f"{largest.refused} was compiled too and does not fit"
    return (
        f"largest batch that fits: {largest.batch}, compiled at that size; {upper} "
        f"({largest.compiles} more compiles)"
    )


def plan_dict(p: Planned, largest: Largest | None = None, *, exact: bool = False) -> dict[str, Any]:
    """Returns the plan's numbers for JSON: bytes, FLOPs and seconds, a device where not said."""
    c = p.config
    found = measured_dict(p.measured, p.needed, exact=exact)
    found["experiment"] = {
        "name": c.name, "batch": p.batch, "accumulate": c.accumulate, "remat": str(c.remat),
        "dtype": c.dtype, "attention": c.attention, "mesh": p.mesh, "rows_at_once": p.rows,
        "parameters": p.parameters, "trained": p.trained, "gradient_bytes": p.gradient,
    }  # fmt: skip
    if not p.measured.fits:
        found["advice"] = [line.strip() for line in advice(p)[1:]]
    if largest is not None:
        found["largest"] = {
            "batch": largest.batch, "verified": largest.verified, "refused": largest.refused,
            "compiles": largest.compiles,
        }  # fmt: skip
    return found


def measured_dict(m: Measured, model: float, *, exact: bool = False) -> dict[str, Any]:
    """Returns what was measured of one program."""
    found: dict[str, Any] = {
        "topology": m.machine.full, "chips": m.machine.chips, "devices": m.machine.devices,
        "fits": m.fits, "needed_bytes": m.needed, "limit_bytes": m.limit,
        "state_bytes": m.state, "batch_bytes": m.batch, "estimate": m.estimate,
        "full_effort": exact, "seconds_to_compile": round(m.seconds, 1),
        "flops_model_all_devices": model, "flops_traced_all_devices": m.traced,
    }  # fmt: skip
    if m.memory is not None:
        found["memory"] = {
            "arguments": m.memory.arguments, "outputs": m.memory.outputs, "temps": m.memory.temps,
            "aliased": m.memory.aliased, "code": m.memory.code,
        }  # fmt: skip
    if m.message:
        found["message"] = m.message.strip().splitlines()[0]
    if m.cost is not None:
        r = roofline(m.machine, m.cost, model)
        found |= {
            "flops": m.cost.flops, "hbm_traffic_bytes": m.cost.traffic, "sent_bytes": m.cost.sent(),
            "loops_on_data": len(m.cost.unknown), "kernels_not_counted": m.cost.kernels,
            "roofline": {
                "seconds": r.time, "bound": r.bound, "compute": r.compute, "memory": r.memory,
                "exchange": r.exchange, "utilisation": r.utilisation, "utilisation_at_most": r.most,
            },
        }  # fmt: skip
    return found

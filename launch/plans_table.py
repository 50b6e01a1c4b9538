"""Writes `launch/plans.md` from the numbers in `launch/plans.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openseg_jax.plan.chips import CHIPS, GIB
from openseg_jax.plan.roofline import gradient_bound
from openseg_jax.plan.topology import parse

HEAD = """# What fits, and how fast it can be at most

Made by `python -m launch.plans` (`pip install -e '.[tpu-plan]'`, no TPU): each cell is one `openseg
plan`, which compiles the step that `openseg train` runs, for the slice named, with libtpu. Nothing
was run: memory, FLOPs and bytes are counted in the compiled program, times are bounds from the
chips' published peaks. Commands and all numbers: [plans.json](plans.json).

* **memory**: GiB a chip that the program holds at once, of what libtpu lets it take. Compiled with
  the compiler's least effort, eight times sooner; its full effort was seen to differ by 5 % (see
  below), so leave that much room.
* **PFLOP**: products and convolutions of a step on all chips, loops as often as they run,
  recomputation included.
* **GB sent**: what a chip sends to others in a step, by ring algorithms.
* **ms**: the longest of products at the peak rate, exchange at the links' rate, and HBM traffic at
  HBM's rate. The traffic is that of this compile and an upper estimate: full effort fuses more.
* **util.**: model FLOPs (no recomputation) over what the chips could do, first in the time of
  products and exchange alone, which no run can beat, then in the ms of the row.
* **acc., fsdp**: chosen by one rule: fsdp is the least power of two that brings the training state
  below half of a chip's memory; accumulate the least that leaves a chip of 16 GiB at most
  {rows} rows at once, chips with 2 or 4 × the memory so many more.
  Accumulation keeps all negatives of CLIP's batch; SegCLIP's would lose theirs and is not cut.
  Blocks are recomputed (`remat=full`), but for MAFT's stage 1.
* CaR's recurrence runs as long as the picture asks; one round is counted. Its devices exchange
  nothing. MAFT is published with 16 pictures a step: on more than 16 chips it has no rows for all.
* **—**: not compiled. Names: v4-512 and v5p-128 count TensorCores, so they have 256 and 64 chips.

"""


def write_table(rows: Sequence[Any], machines: Sequence[str], kept: dict[str, Any]) -> str:
    """Writes the page.

    Args:
        rows, machines: of `launch.plans`. kept: the numbers that are there.
    """
    limits = {r.name: r.rows for r in rows if r.rows}
    said = ", ".join(f"{n} ({name})" for name, n in limits.items())
    parts = [HEAD.format(rows=said)]
    there = 0
    for topology in machines:
        machine = parse(topology)
        chip = machine.chip
        parts.append(
            f"## {topology}: {machine.chips} chips, {machine.full}\n\n"
            f"{chip.usable / GIB:.2f} GiB and {chip.flops / 1e12:.0f} TFLOP/s a chip.\n\n"
            "| | batch | fits | GiB a chip | PFLOP | GB sent | ms | bound | util. | acc. | fsdp |\n"
            "|---|---|---|---|---|---|---|---|---|---|---|\n"
        )
        for row in rows:
            cell = _find(kept, row, topology)
            there += cell is not None
            parts.append(_line(row, cell))
        parts.append("\n")
    parts.append(_notes(rows, kept))
    parts.append("\n## Numbers of the chips\n\n")
    for name in sorted({parse(t).chip.name for t in machines}):
        chip = CHIPS[name]
        parts += [f"* {source}\n" for source in chip.sources]
    total = len(rows) * len(machines)
    parts.append(f"\n{there} of {total} cells are compiled or answered.\n")
    return "".join(parts)


def _find(kept: dict[str, Any], row: Any, topology: str) -> dict[str, Any] | None:
    found = kept.get(f"{row.name} | {row.batch} | {topology}")
    if found is None and "--inference" in row.arguments:
        chip = parse(topology).chip.name
        for key, cell in kept.items():
            name, _, where = key.split(" | ")
            if name == row.name and parse(where).chip.name == chip:
                return cell
    return found


def _line(row: Any, cell: dict[str, Any] | None) -> str:
    batch = "1 a chip" if "--inference" in row.arguments else f"{row.batch:,}"
    if cell is None:
        return f"| {row.name} | {batch} |" + " — |" * 9 + "\n"
    if "refused" in cell:
        return f"| {row.name} | {batch} | no: {_short(cell['refused'])} |" + " |" * 8 + "\n"
    words = cell["command"].split()
    accumulate = words[words.index("--accumulate") + 1] if "--accumulate" in words else "1"
    fsdp = next((w.removeprefix("fsdp=") for w in words if w.startswith("fsdp=")), "1")
    if "roofline" not in cell:
        total = f"{cell['needed_bytes'] / GIB:.1f}"
        return f"| {row.name} | {batch} | **no** | {total} | | | | | | {accumulate} | {fsdp} |\n"
    r = cell["roofline"]
    sent = sum(cell["sent_bytes"].values()) / 1e9
    fits = "yes" if cell["fits"] else "**no**"
    flops = f"{cell['flops'] * cell['devices'] / 1e15:.3g}"
    peak = parse(cell["topology"]).chip.flops * cell["devices"]
    sound = cell["flops_model_all_devices"] / peak / max(r["compute"], r["exchange"])
    return (
        f"| {row.name} | {batch} | {fits} | {cell['needed_bytes'] / GIB:.1f} | {flops} | "
        f"{sent:.2f} | {r['seconds'] * 1e3:.0f} | {r['bound']} | {sound:.0%}, {r['utilisation']:.0%} | "
        f"{accumulate} | {fsdp} |\n"
    )


def _short(text: str) -> str:
    return "batch has fewer rows than chips" if "multiple of" in text else text


def _notes(rows: Sequence[Any], kept: dict[str, Any]) -> str:
    cell = kept.get("CLIP ViT-L/14 | 32768 | v5e-256")
    if cell is None or "experiment" not in cell or "sent_bytes" not in cell:
        return ""
    about, sent = cell["experiment"], cell["sent_bytes"]
    n, batch = cell["chips"], about["batch"]
    least = gradient_bound(about["gradient_bytes"], n)
    ring = 2 * (n - 1) / n * batch * 768 * 4 * 2
    listed = ", ".join(f"{kind} {value / 1e9:.3f}" for kind, value in sorted(sent.items()))
    total, reduced = sum(sent.values()), sent.get("all-reduce", 0.0)
    return (
        "## The bytes of ViT-L/14 at 32,768 on v5e-256\n\n"
        f"A chip sends {total / 1e9:.3f} GB a step ({listed}), "
        f"{cell['roofline']['exchange'] * 1e3:.0f} ms of a step of at least "
        f"{cell['roofline']['seconds'] * 1e3:.0f} ms.\n\n"
        f"* Every chip has to learn the sum of {about['trained'] / 1e6:.1f} M gradients. In "
        f"bfloat16, which they are computed in, no way of doing it sends less than 2·(n−1)/n·bytes "
        f"= {least / 1e9:.3f} GB. The program's all-reduces send "
        f"{reduced / 1e9:.3f} GB, {reduced / least:.2f} × that: the"
        "  gradients of embeddings, gains and biases are summed in float32, as they are not "
        "inputs of bfloat16 products.\n"
        "* Every chip has to meet every other's texts: tiles go once around the ring for the loss "
        "and once, with their gradients, for the backward pass "
        f"(at most {ring / 1e9:.3f} GB for float32 rows of width 768 there and back; the program's "
        f"permutations send {sent.get('collective-permute', 0) / 1e9:.3f} GB). Gathering all texts "
        "on each chip instead would send as much and hold 256 × the rows.\n"
    )

"""Writes `launch/plans.md` from the numbers in `launch/plans.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openseg_jax.plan.chips import CHIPS, GIB
from openseg_jax.plan.roofline import gradient_bound
from openseg_jax.plan.topology import parse

# A share of the memory above which full effort, which was seen to take 4 to 5 % more, decides.
TIGHT = 0.92
HEAD = """# What fits, and how fast it can be at most

Made by `python -m launch.plans` (`pip install -e '.[tpu-plan]'`, no TPU): each cell is one `openseg
plan`, which compiles the step that `openseg train` runs, for the slice named, with libtpu. Nothing
was run: memory, FLOPs and bytes are counted in the compiled program, times are bounds from the
chips' published peaks. Commands and all numbers: [plans.json](plans.json).

* **memory**: GiB a chip that the program holds at once, of what libtpu lets it take. Compiled with
  the compiler's least effort, about eight times sooner; full effort was seen to take 4 to 5 % more
  (see below), so above 92 % it is called tight: ask with `--exact` before you book.
* **PFLOP**: products and convolutions of a step on all chips, loops as often as they run,
  recomputation included.
* **GB sent**: what a chip sends to others in a step, by ring algorithms.
* **ms**: the longest of products at the peak rate, exchange at the links' rate, and HBM traffic at
  HBM's rate. The traffic is that of this compile and an upper estimate: full effort fuses more.
* **util.**: model FLOPs (no recomputation) over what the chips could do, first in the time of
  products and exchange alone, which no run can beat, then in the ms of the row.
* **acc., fsdp**: chosen by one rule: fsdp is the least power of two that brings the training state
  below half of a chip's memory; accumulate the least that leaves a chip of 16 GiB at most
  {rows} rows at once,
  half of them where the batch is cut (the sum of gradients takes room too); chips with 2 or 4 × the
  memory take so many more.
  A batch in k parts exchanges its gradients k times: the compiler leaves the sum over devices
  inside the loop. Accumulation keeps all negatives of CLIP's batch; SegCLIP's would lose theirs and
  is not cut. Blocks are recomputed (`remat=full`), but for MAFT's stage 1.
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
            name, _, where = key.split(" | ")[:3]
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
    tight = cell["needed_bytes"] > TIGHT * cell["limit_bytes"]
    fits = "**no**" if not cell["fits"] else "tight" if tight else "yes"
    flops = f"{cell['flops'] * cell['devices'] / 1e15:.3g}"
    peak = parse(cell["topology"]).chip.flops * cell["devices"]
    times = f"{r['seconds'] * 1e3:.0f} | {r['bound']}"
    sound = cell["flops_model_all_devices"] / peak / max(r["compute"], r["exchange"])
    return (
        f"| {row.name} | {batch} | {fits} | {cell['needed_bytes'] / GIB:.1f} | {flops} | "
        f"{sent:.2f} | {times} | {sound:.0%}, {r['utilisation']:.0%} | "
        f"{accumulate} | {fsdp} |\n"
    )


def _short(text: str) -> str:
    return "batch has fewer rows than chips" if "multiple of" in text else text


def _notes(rows: Sequence[Any], kept: dict[str, Any]) -> str:
    """Explains one cell: the one that people ask for, with its bytes and its full-effort twin."""
    name = "CLIP ViT-L/14 | 32768 | v5e-256"
    cell, full = kept.get(name), kept.get(f"{name} | full effort")
    if full is None or cell is None or "sent_bytes" not in full or "memory" not in cell:
        return ""
    about, sent = full["experiment"], full["sent_bytes"]
    n, batch, r = full["chips"], about["batch"], full["roofline"]
    least = gradient_bound(about["gradient_bytes"], n)
    ring = 2 * (n - 1) / n * batch * 768 * 4
    table = gradient_bound(49408 * 768 * 2, n)
    listed = ", ".join(f"{kind} {value / 1e9:.3f}" for kind, value in sorted(sent.items()))
    total, reduced = sum(sent.values()), sent.get("all-reduce", 0.0)
    turned = sent.get("collective-permute", 0.0)
    return (
        "## ViT-L/14 at 32,768 on v5e-256\n\n"
        f"With the compiler's full effort (`{full['command']}`) a chip holds "
        f"{full['needed_bytes'] / GIB:.2f} of {full['limit_bytes'] / GIB:.2f} GiB, "
        f"{full['needed_bytes'] / cell['needed_bytes'] - 1:+.1%} against least effort: it "
        f"{'fits' if full['fits'] else 'does not fit'}. `--accumulate 2` or "
        "`--set average.decay=0.0` (no average of the parameters) leave more room. HBM traffic is "
        f"{full['hbm_traffic_bytes'] / cell['hbm_traffic_bytes'] - 1:+.0%}.\n\n"
        f"A chip sends {total / 1e9:.3f} GB a step ({listed}), {r['exchange'] * 1e3:.0f} ms where "
        f"products take {r['compute'] * 1e3:.0f}.\n\n"
        f"* Every chip has to learn the sum of {about['trained'] / 1e6:.1f} M gradients. In "
        "bfloat16, which they are computed in, nothing sends less than 2·(n−1)/n·bytes = "
        f"{least / 1e9:.3f} GB. The program's all-reduces send {reduced / 1e9:.3f} GB, "
        f"{reduced / least:.2f} × that: the gradient of the token table (a scatter of float32) is "
        f"summed in float32, which is {table / 1e9:.3f} GB more.\n"
        "* Every chip has to meet every other's captions: they go once around the ring for the "
        "loss, and once more with their gradients, 2·(n−1)/n·batch·width·4 bytes = "
        f"{ring / 1e9:.3f} GB; the program's permutations send {turned / 1e9:.3f} GB. Gathering "
        "them and scattering their gradients back sends as much, and holds all captions on every "
        "chip. Rows in bfloat16 would halve it; the loss keeps float32.\n"
        f"* Together the least is {(least + ring) / 1e9:.3f} GB; this is "
        f"{total / (least + ring):.2f} × that.\n"
    )

"""A training in one page of Markdown, from the files that it leaves while it runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openseg_jax.errors import UserError
from openseg_jax.files import atomic_write
from openseg_jax.train.logging import QUANTILES
from openseg_jax.train.measures import describe_machine
from openseg_jax.train.state import flat_names

METRICS, RUNS, SUMMARY = "metrics.jsonl", "runs.jsonl", "summary.md"

# What a record says of the machine; all its other numbers are the training's.
_MACHINE = (
    "step", "time", "examples_per_second", "examples_per_second_per_device", "step_seconds",
    "utilisation", "input_wait", "device_memory_peak", "device_memory_limit", "host_memory",
    "learning_rate", "finite", "skipped",
)  # fmt: skip
_QUANTILES = tuple(f"/p{q}" for q in QUANTILES)
_BARS = "▁▂▃▄▅▆▇█"
_WAITS = 0.1  # share of the time beyond which waiting for input is worth a warning
_FULL = 0.95  # share of the device memory beyond which a larger batch will not fit

Row = Mapping[str, Any]


def summarize(workdir: str | os.PathLike[str]) -> str:
    """Tells what a training did, or has done so far.

    Args:
        workdir: with `metrics.jsonl` and `runs.jsonl`.

    Returns:
        Markdown.

    Raises:
        UserError: where nothing was trained.
    """
    workdir = Path(workdir)
    runs, rows = read_rows(workdir / RUNS), read_rows(workdir / METRICS)
    starts = [run for run in runs if run.get("event") == "start"]
    if not starts:
        raise UserError(
            f"{workdir}: expected a training's folder with {RUNS}, got none; "
            "give the --workdir of `openseg train`"
        )
    spent = _time(starts, [float(row["time"]) for row in (*runs, *rows) if "time" in row])
    rows = _in_force(rows, starts)
    records = [row for row in rows if "examples_per_second" in row]
    parts = [
        f"# {_outcome(runs, records)}",
        _facts(runs, starts, records, spent),
        _curve(records),
        _metrics(records),
        _evaluations([row for row in rows if "examples_per_second" not in row]),
        _warnings(records),
        _origin(workdir, starts[-1]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def describe_run(config: Any, program: Any, params: Any, checkpoints: str) -> dict[str, Any]:
    """Returns what the summary says of a run besides its numbers, ready for JSON.

    Args:
        config: as `configs/base.py` lists it.
        program: a `train.program.Program`.
        params: nested, arrays or shapes.
        checkpoints: where they go.
    """
    sizes = {name: leaf.size for name, leaf in flat_names(params).items()}
    return {
        "name": config.name,
        "task": config.task.name,
        "init": config.init,
        "steps": config.steps,
        "batch_size": config.batch_size,
        "dtype": config.dtype,
        "attention": config.attention,
        "parameters": sum(sizes.values()),
        "trained": sum(sizes[name] for name in program.trained),
        "mesh": dict(program.mesh.shape),
        "checkpoints": checkpoints,
        **describe_machine(),
    }


def write_summary(workdir: str | os.PathLike[str]) -> None:
    """Writes `summary.md`, as a whole or not at all."""
    text = summarize(workdir)
    with atomic_write(Path(workdir) / SUMMARY) as aside:
        aside.write_text(text, encoding="utf-8")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Reads a file of JSON lines; lines that a kill cut short are left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _in_force(rows: Sequence[Row], starts: Sequence[Row]) -> list[Row]:
    """Drops what a later run, resumed from an earlier checkpoint, did again."""

    def again(row: Row) -> bool:
        return any(s["time"] > row["time"] and s["step"] < row["step"] for s in starts)

    kept = [row for row in rows if {"step", "time"} <= row.keys() and not again(row)]
    return sorted(kept, key=lambda row: row["step"])


def sparkline(values: Iterable[float], width: int = 40) -> str:
    """Draws numbers as a row of bars, means of equal parts where there are more than `width`."""
    numbers = np.array([x for x in values if np.isfinite(x)])
    if not numbers.size:
        return ""
    means = np.array([part.mean() for part in np.array_split(numbers, min(width, numbers.size))])
    spread = means.max() - means.min()
    heights = (means - means.min()) / (spread or 1.0) * (len(_BARS) - 1)
    return "".join(_BARS[round(float(height))] for height in heights)


def _outcome(runs: Sequence[Row], records: Sequence[Row]) -> str:
    start = next(run for run in reversed(runs) if run.get("event") == "start")
    last = runs[-1]
    step = max([int(run["step"]) for run in runs] + [int(row["step"]) for row in records[-1:]])
    ended = last.get("event") == "end"
    how = str(last.get("outcome", "stopped")) if ended else "running, or killed,"
    return f"{start.get('name', 'training')}: {how} at step {step} of {start.get('steps', '?')}"


def _facts(runs: Sequence[Row], starts: Sequence[Row], records: Sequence[Row], spent: str) -> str:
    about = starts[-1]
    lines = [
        ("task", _words(about, "task", "init")),
        ("parameters", _parameters(about)),
        ("batch", f"{about.get('batch_size', '?')} examples, {about.get('dtype', '?')}"),
        ("devices", _devices(about)),
        ("attention", _attention(runs, about)),
        ("time", spent),
    ]
    # A run's first record holds compiling.
    steady = [row for row in records if all(row["step"] != s["step"] + 1 for s in starts)]
    if steady:
        lines += [
            ("throughput", _spread(steady, "examples_per_second", "examples/s")),
            ("a device", _each(about, steady)),
            ("a step", _spread(steady, "step_seconds", "s")),
            ("utilisation", _utilisation(runs, steady)),
            ("waiting for input", f"{_median(steady, 'input_wait'):.1%} of the time"),
        ]
    if records:
        lines += [("device memory", _memory(records)), ("host memory", _host(records))]
    table = [f"| {name} | {said} |" for name, said in lines if said]
    return "\n".join(["| | |", "|---|---|", *table])


def _words(about: Row, *names: str) -> str:
    return ", ".join(str(about[name]) for name in names if about.get(name))


def _parameters(about: Row) -> str:
    if "parameters" not in about:
        return ""
    return f"{about['parameters']:,}, {about.get('trained', 0):,} of them trained"


def _devices(about: Row) -> str:
    mesh = " × ".join(f"{name} {size}" for name, size in about.get("mesh", {}).items())
    said = f"{about.get('devices', '?')} × {about.get('device_kind', '?')}"
    said += f", {about['processes']} processes" if about.get("processes", 1) > 1 else ""
    return f"{said}; mesh {mesh}" if mesh else said


def _attention(runs: Sequence[Row], about: Row) -> str:
    told = [run["kernels"] for run in runs if "kernels" in run]
    if not told:
        return _words(about, "attention")
    ran = f"fused kernels of {' and '.join(told[-1])}" if told[-1] else "XLA's products"
    return f"{about.get('attention', 'auto')}: {ran}"


def _each(about: Row, rows: Sequence[Row]) -> str:
    if about.get("devices", 1) == 1:
        return ""
    return _spread(rows, "examples_per_second_per_device", "examples/s")


def _time(starts: Sequence[Row], times: Sequence[float]) -> str:
    seconds = 0.0
    for number, start in enumerate(starts):
        after = starts[number + 1]["time"] if number + 1 < len(starts) else float("inf")
        seen = [time for time in times if start["time"] <= time < after]
        seconds += max(seen) - start["time"]
    hours, rest = divmod(round(seconds), 3600)
    said = f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
    resumed = [str(start["step"]) for start in starts if start["step"]]
    return f"{said}, resumed at step {', '.join(resumed)}" if resumed else said


def _median(rows: Sequence[Row], name: str) -> float:
    found = [row[name] for row in rows if name in row]
    return float(np.median(found)) if found else 0.0


def _spread(rows: Sequence[Row], name: str, unit: str) -> str:
    found = [row[name] for row in rows if name in row]
    if not found:
        return ""
    low, middle, high = np.quantile(found, (0.1, 0.5, 0.9))
    return f"{middle:.4g} {unit} (median; p10 {low:.4g}, p90 {high:.4g})"


def _utilisation(runs: Sequence[Row], rows: Sequence[Row]) -> str:
    flops = [run["step_flops"] for run in runs if "step_flops" in run]
    said = f"{flops[-1] / 1e12:.4g} TFLOP a step" if flops else ""
    if any("utilisation" in row for row in rows):
        return f"{_median(rows, 'utilisation'):.1%} of the bfloat16 peak; {said}"
    return f"{said}; none is claimed for this device" if said else ""


def _memory(rows: Sequence[Row]) -> str:
    peaks = [row["device_memory_peak"] for row in rows if "device_memory_peak" in row]
    if not peaks:
        return ""
    limit = rows[-1].get("device_memory_limit")
    return f"{max(peaks):.2f} GiB at the peak" + (f" of {limit:.2f}" if limit else "")


def _host(rows: Sequence[Row]) -> str:
    found = [row["host_memory"] for row in rows if "host_memory" in row]
    return f"{max(found):.2f} GiB (workers of the input not counted)" if found else ""


def _curve(records: Sequence[Row]) -> str:
    losses = [row["loss"] for row in records if "loss" in row]
    if len(losses) < 2:
        return ""
    return f"Loss `{sparkline(losses)}` {losses[0]:.4g} → {losses[-1]:.4g}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = "|".join(["---"] * len(header))
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, *rows]).replace(
        "\n", f"\n|{rule}|\n", 1
    )


def _metrics(records: Sequence[Row]) -> str:
    if not records:
        return ""
    names = [n for n in records[-1] if n not in _MACHINE]
    rows = [(n, f"{records[0].get(n, np.nan):.4g}", f"{records[-1][n]:.4g}") for n in names]
    header = ("metric", f"step {records[0]['step']}", f"step {records[-1]['step']}")
    return "## Metrics\n\n" + _table(header, rows)


def _evaluations(rows: Sequence[Row]) -> str:
    names = sorted({name for row in rows for name in row} - {"step", "time"})
    table = []
    for name in names:
        found = [(float(row[name]), int(row["step"])) for row in rows if name in row]
        greatest = max(found, key=lambda pair: pair[0])
        least = min(found, key=lambda pair: pair[0])
        cells = (found[-1], greatest, least)
        table.append((name, *(f"{value:.4g} (step {step})" for value, step in cells)))
    plain = [row for row in table if not row[0].endswith(_QUANTILES)]
    spread = [row[:2] for row in table if row[0].endswith(_QUANTILES)]
    parts = []
    if plain:
        parts.append("## Evaluations\n\n" + _table(("number", "last", "greatest", "least"), plain))
    if spread:
        parts.append("## Histograms\n\n" + _table(("percentile", "last"), spread))
    return "\n\n".join(parts)


def _warnings(records: Sequence[Row]) -> str:
    said = []
    waits = _median(records[1:] or records, "input_wait")
    if waits > _WAITS:
        said.append(
            f"Waited for input {waits:.0%} of the time: raise input.threads, input.workers or "
            "input.prefetch."
        )
    last = records[-1] if records else {}
    if last.get("skipped"):
        said.append(f"{last['skipped']:.0f} broken pictures or empty captions were skipped.")
    if last.get("finite", 1.0) < 1.0:
        said.append(
            "The loss or a gradient was not finite: lower optim.learning_rate, raise optim.warmup."
        )
    peak, limit = last.get("device_memory_peak"), last.get("device_memory_limit")
    if peak and limit and peak > _FULL * limit:
        said.append(f"{peak / limit:.0%} of the device memory was in use: no larger batch fits.")
    return "## Warnings\n\n" + "\n".join(f"- {line}" for line in said) if said else ""


def _origin(workdir: Path, about: Row) -> str:
    where = str(about.get("checkpoints") or workdir / "checkpoints")
    steps = sorted(int(p.name) for p in Path(where).glob("*") if p.name.isdigit())
    versions = ", ".join(f"{name} {v}" for name, v in about.get("versions", {}).items())
    commit = f"; commit {about['commit']}" if about.get("commit") else ""
    kept = f"Checkpoints in {where}"
    if "://" not in where:
        kept += f": step {', '.join(map(str, steps))}" if steps else ": none"
    return f"{kept}.\n\n{versions}{commit}".strip()

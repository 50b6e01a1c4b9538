"""What a report says, as tables of plain values; `report` and `report_html` write them out.

Floats are percent unless a header says otherwise; None is a number that is not defined.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from openseg_jax.eval.measures import (
    FORGOTTEN,
    MEANS,
    AnyResult,
    label,
    measured,
    percent,
    ranked,
)
from openseg_jax.eval.published import METRICS, Published, published
from openseg_jax.eval.result import ReferringResult, Result

Cell = str | float | int | None

NO_CLASS = "(no class)"

_PARTS = {
    "device": "device busy, %",
    "input": "waiting for input, %",
    "metrics": "metrics, %",
    "segment": "segmenting, %",
}


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        title: of its section; "" goes on with the section before.
        header: one text a column.
        rows: one cell a column; floats have two decimals.
        notes: sentences under the table.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


def title_of(result: AnyResult, among: Sequence[AnyResult] = ()) -> str:
    """Names a result by its method, with the model where others have another."""
    models = {other.model for other in among}
    return f"{result.method}, {result.model}" if len(models) > 1 else result.method


def summary(results: Sequence[AnyResult]) -> Table:
    """Makes the first table: a row a method, a column a metric.

    Args:
        results: of one benchmark.
    """
    found = [measured(result) for result in results]
    keys = list(dict.fromkeys(key for one in found for key in one))
    # Seen and unseen are printed in the default convention; JSON has all three.
    keys = [k for k in keys if k.split("_")[0] not in ("seen", "unseen", "harmonic") or "gt" in k]
    rows = []
    for result, one in zip(results, found, strict=True):
        done, seconds = _done(result), _working(result)
        each = 1000 * seconds / done if done else None
        rows.append(
            (
                result.method, result.model, *(percent(one.get(key)) for key in keys),
                len(result.rows), each,
            )
        )  # fmt: skip
    things = "objects" if isinstance(results[0], ReferringResult) else "pictures"
    header = ("method", "model", *map(label, keys), things, "ms each")
    return Table("Summary", header, tuple(rows), (*_parts(results), *_meanings(keys)))


def _parts(results: Sequence[AnyResult]) -> tuple[str, ...]:
    """Warns of results on a part of a benchmark, whose provenance says "n of all"."""
    notes = []
    for result in results:
        for things in ("pictures", "objects"):
            count, of, whole = str(result.provenance.get(things, "")).partition(" of ")
            if of and count != whole:
                notes.append(
                    f"Only {count} of {whole} {things} were evaluated: these numbers do not "
                    "compare with those of the whole benchmark."
                )
    return tuple(dict.fromkeys(notes))


def _done(result: AnyResult) -> int:
    """Counts what this run did itself, and not one that it went on from."""
    return len(result.rows) - int(result.provenance.get("resumed", 0))


def _working(result: AnyResult) -> float:
    """Returns the seconds of the loop without compiling; NaN where they are not known."""
    loop = result.timings.get("loop", result.timings.get("total", float("nan")))
    return loop - result.timings.get("compile", 0.0)


def _meanings(keys: Sequence[str]) -> tuple[str, ...]:
    notes = [f"mIoU ({c}): {text}." for c, text in MEANS.items() if f"miou_{c}" in keys]
    if FORGOTTEN in keys:
        notes.append(
            "mIoU (gt, missed forgotten): pixels that a method gave to no class are left out "
            "instead of counting as misses, as CaR's published numbers do."
        )
    if "oiou" in keys:
        notes.append(
            "oIoU: intersections over unions, both summed over all objects. mIoU: mean over the "
            "objects. P@x: share of the objects whose IoU is at least x."
        )
    return (*notes, "Metrics in percent.")


def beside_published(results: Sequence[AnyResult]) -> list[Table]:
    """Puts published numbers beside ours: those of our methods, then those of all others.

    Args:
        results: of one benchmark; without published numbers there are no tables.
    """
    benchmark = results[0].benchmark
    kinds = ("oiou", "miou") if isinstance(results[0], ReferringResult) else tuple(METRICS)
    sides: tuple[list[Any], list[Any]] = ([], [])
    for one in published(benchmark, metrics=kinds):
        same = [result for result in results if one.method == result.method]
        row = (one.name, one.backbone, _metric(one), one.printed)
        rest = (one.settings, one.source)
        if same:
            ours = " / ".join(_ours(one, result) for result in same)
            sides[0].append((*row, ours, *rest))
        else:
            sides[1].append((*row, *rest))
    first, last = ("method", "backbone", "metric", "published"), ("settings", "source")
    found = (
        Table(
            "Published numbers",
            (*first, "ours (model)", *last),
            tuple(sides[0]),
            ("The two compare only where weights, class names and settings agree.",),
        ),
        Table("Published numbers of other methods", (*first, *last), tuple(sides[1])),
    )
    return [table for table in found if table.rows]


def _metric(one: Published) -> str:
    name = METRICS[one.metric]
    if one.metric != "miou" or one.benchmark.startswith("refcoco"):
        return name
    kind = one.convention or "convention not stated"
    return f"{name} ({kind}{', missed forgotten' if one.forgets_missed else ''})"


def _ours(one: Published, result: AnyResult) -> str:
    found = measured(result)
    key = one.metric
    if isinstance(result, Result):
        convention = one.convention or "gt"
        key = {"miou": f"miou_{convention}", "miou_unseen": f"unseen_{convention}"}.get(key, key)
        if one.forgets_missed and FORGOTTEN in found:
            key = FORGOTTEN
    value = percent(found.get(key))
    return f"{'–' if value is None else format(value, '.2f')} ({result.model})"


def per_class(results: Sequence[Result]) -> Table:
    """Makes the table of classes: share of the truth, and each method's IoU.

    Args:
        results: of one benchmark, with the same classes.
    """
    first = results[0]
    all_metrics = [result.metrics() for result in results]
    truth = all_metrics[0].truth
    total = max(int(truth.sum()), 1)
    rows = []
    for index, name in enumerate(first.classes):
        side = () if first.unseen is None else ("unseen" if first.unseen[index] else "seen",)
        ious = (percent(float(m.iou[index])) for m in all_metrics)
        rows.append((name, *side, 100 * int(truth[index]) / total, *ious))
    side = () if first.unseen is None else ("split",)
    header = ("class", *side, "share of truth", *(f"IoU {title_of(r, results)}" for r in results))
    if len(results) == 1:
        header = (*header[:-1], "IoU")
    return Table("Classes", header, tuple(rows))


def mixed_up(result: Result, most: int = 15, *, among: Sequence[AnyResult] = ()) -> Table:
    """Lists the pairs of classes that most pixels were mixed up between.

    Args:
        result: of a method.
        most: at most so many pairs.
        among: the other methods of the report.
    """
    count = len(result.classes)
    wrong = np.zeros((count, count + 1), np.int64)
    wrong[:, :count] = result.matrix
    truth = result.matrix.sum(1)
    if result.missed is not None:
        wrong[:, count] = result.missed
        truth = truth + result.missed
    np.fill_diagonal(wrong[:, :count], 0)
    names = (*result.classes, NO_CLASS)
    # Stable: of equal counts the first pair by class comes first, on every machine.
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    rows = []
    for true, taken in zip(*np.unravel_index(order, wrong.shape), strict=True):
        pixels = int(wrong[true, taken])
        if pixels:
            rows.append((names[true], names[taken], pixels, 100 * pixels / int(truth[true])))
    header = ("true class", "taken for", "pixels", "share of the true class")
    return Table(_titled("Most mixed up", result, among), header, tuple(rows))


def _titled(text: str, result: AnyResult, among: Sequence[AnyResult]) -> str:
    return f"{text}: {title_of(result, among)}" if len(among) > 1 else text


def extremes(result: ReferringResult, most: int = 10, *, among: Sequence[AnyResult] = ()) -> Table:
    """Lists the objects that were found worst and best.

    Args:
        result: of a method.
        most: of each kind.
        among: the other methods of the report.
    """
    rows = {row.name: row for row in result.rows}
    lines = [
        (kind, name, " / ".join(rows[name].texts), 100 * iou)
        for kind, side in zip(("worst", "best"), ranked(result, most), strict=True)
        for name, iou in side
    ]
    header = ("", "object", "expressions", "IoU")
    return Table(_titled("Worst and best", result, among), header, tuple(lines))


def timings(results: Sequence[AnyResult]) -> Table:
    """Makes the table of time: seconds, and the parts' shares of the loop without compiling."""
    known = list(dict.fromkeys(name for result in results for name in result.timings))
    whole = [name for name in known if name in ("total", "loop", "compile")]
    parts = [name for name in known if name not in whole]
    rows = []
    for result in results:
        done, seconds = _done(result), _working(result)
        shares = (
            100 * result.timings.get(part, float("nan")) / seconds if seconds > 0 else None
            for part in parts
        )
        rate = done / seconds if seconds > 0 else None
        cells = (result.timings.get(name) for name in whole)
        rows.append((title_of(result, results), *cells, *shares, done, rate))
    things = "objects" if isinstance(results[0], ReferringResult) else "pictures"
    header = (
        *(f"{name}, s" for name in whole),
        *(_PARTS.get(part, f"{part}, %") for part in parts),
    )
    notes = (
        "Shares are of the loop without compiling. What an earlier run had counted is not timed.",
    )
    return Table("Time", ("method", *header, things, f"{things}/s"), tuple(rows), notes)


def provenance(result: AnyResult) -> dict[str, str]:
    """Returns what the numbers depend on, in the order it is printed."""
    facts = {"benchmark": result.benchmark, "method": result.method, "model": result.model}
    return {key: _said(value) for key, value in (facts | dict(result.provenance)).items()}


def provenance_line(result: AnyResult) -> str:
    """Says the same in one line."""
    return " · ".join(f"{key}: {value}" for key, value in provenance(result).items())


def shown(cell: Cell) -> str:
    """Writes a cell: floats with two decimals, counts in groups of three."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    if isinstance(cell, float):
        return f"{cell:.2f}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def numeric_columns(table: Table) -> list[bool]:
    """Tells which columns hold numbers."""
    columns = range(len(table.header))
    return [any(isinstance(row[i], float | int) for row in table.rows) for i in columns]


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_said(one)}" for key, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_said, value)) or "none"
    words = {None: "none", True: "yes", False: "no"}
    return words[value] if value is None or isinstance(value, bool) else str(value)

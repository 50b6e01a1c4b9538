"""Reports of evaluations: JSON with all counts, Markdown for people, HTML with pictures.

The JSON is the result itself: `read_report` gets it back exactly, and any other metric, table or
comparison can be made from it later.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openseg_jax.errors import UserError
from openseg_jax.eval import measures, report_tables
from openseg_jax.eval.measures import AnyResult
from openseg_jax.eval.report_html import Pictures, write_html
from openseg_jax.eval.report_tables import Cell, Table
from openseg_jax.eval.result import ReferringResult, Result, result_from_json
from openseg_jax.files import atomic_write, nearest_path

__all__ = ["read_report", "to_json", "to_markdown", "write_reports"]

FORMAT = "openseg_jax.report/1"


def write_reports(
    folder: str | os.PathLike[str],
    results: Sequence[AnyResult],
    *,
    name: str = "report",
    pictures: Sequence[Pictures | None] = (),
) -> list[Path]:
    """Writes FOLDER/NAME.json, .md and .html.

    Args:
        folder: made if it is not there.
        results: one a method; benchmarks may differ.
        name: stem of the files.
        pictures: for each result what `report_html.write_html` shows; () for none.
    Returns:
        the files, each written as a whole or not at all.
    Raises:
        UserError: when there is no result, or a file cannot be written.
    """
    stem = Path(folder) / name
    files = [stem.with_name(name + end) for end in (".json", ".md", ".html")]
    text = json.dumps(to_json(results), ensure_ascii=False, allow_nan=False)
    for path, content in zip(files, (text + "\n", to_markdown(results)), strict=False):
        with atomic_write(path) as aside:
            aside.write_text(content, encoding="utf-8")
    write_html(files[2], results, pictures=pictures)
    return files


def to_json(results: Sequence[AnyResult]) -> dict[str, Any]:
    """Returns plain JSON values: each result with its metrics, and with its classes' IoU."""
    return {"format": FORMAT, "results": [_described(result) for result in results]}


def _described(result: AnyResult) -> dict[str, Any]:
    def number(value: float) -> float | None:
        return None if math.isnan(value) else float(value)

    found = {key: number(value) for key, value in measures.measured(result).items()}
    out = {**result.to_json(), "metrics": found}
    if isinstance(result, Result):
        out["class_iou"] = [number(value) for value in result.metrics().iou]
    return out


def read_report(path: str | os.PathLike[str]) -> list[AnyResult]:
    """Reads the results of a JSON report.

    Raises:
        UserError: when the file cannot be read or is no report.
    """
    try:
        read = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path}: cannot read ({error.strerror or error}); {nearest_path(Path(path))}"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); evaluate again") from error
    right = isinstance(read, dict) and read.get("format") == FORMAT
    if not right or not isinstance(read.get("results"), list):
        raise UserError(f"{path}: expected a report of format {FORMAT}; give an evaluation's JSON")
    return [result_from_json(one) for one in read["results"]]


def to_markdown(results: Sequence[AnyResult]) -> str:
    """Writes results as Markdown: summary, published numbers, classes, mistakes, time, provenance.

    Args:
        results: those of one benchmark become one comparison.
    """
    parts = []
    for indices in measures.groups(results):
        group = [results[i] for i in indices]
        parts.append(f"# {_escaped(group[0].benchmark)}\n")
        parts += [_table(table) for table in tables(group)]
        parts.append("## Provenance\n")
        parts += [f"- {_escaped(report_tables.provenance_line(result))}" for result in group]
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def tables(group: Sequence[AnyResult]) -> list[Table]:
    """Returns the tables of a report on one benchmark, in order."""
    out = [report_tables.summary(group), *report_tables.beside_published(group)]
    semantic = [result for result in group if isinstance(result, Result)]
    if semantic:
        out.append(report_tables.per_class(semantic))
        out += [report_tables.mixed_up(result, among=semantic) for result in semantic]
    out += [
        report_tables.extremes(result, among=group)
        for result in group
        if isinstance(result, ReferringResult)
    ]
    return [*out, report_tables.timings(group)]


def _table(table: Table) -> str:
    numeric = report_tables.numeric_columns(table)
    lines = [f"## {_escaped(table.title)}\n"] if table.title else []
    lines.append("| " + " | ".join(map(_escaped, table.header)) + " |")
    lines.append("|" + "".join("---:|" if number else "---|" for number in numeric))
    for row in table.rows:
        lines.append("| " + " | ".join(_cell(cell) for cell in row) + " |")
    lines.append("")
    lines += [f"{_escaped(note)}\n" for note in table.notes]
    return "\n".join(lines)


def _cell(cell: Cell) -> str:
    return _escaped(report_tables.shown(cell))


def _escaped(text: str) -> str:
    """Keeps class names and the like from being read as Markdown or HTML."""
    text = re.sub(r"([\\`*|\[\]]|(?<!\w)[_#]|_(?!\w))", r"\\\1", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

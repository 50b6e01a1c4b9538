"""Published numbers, with where each was read, to stand beside ours.

They are data (`data/published.json`). Two numbers compare only where benchmark, class names, model
and convention agree, so every number carries what is known of these.

`python -m openseg_jax.eval.published docs/evaluation.md` renews the table in the docs.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openseg_jax.errors import UserError
from openseg_jax.files import atomic_write

# Names of the metrics, as tables print them.
METRICS = {
    "miou": "mIoU",
    "miou_unseen": "mIoU of unseen classes",
    "fwiou": "fwIoU",
    "mean_accuracy": "class accuracy",
    "pixel_accuracy": "pixel accuracy",
    "oiou": "oIoU",
}
_BEGIN = "<!-- published numbers: begin, made by `python -m openseg_jax.eval.published` -->"
_END = "<!-- published numbers: end -->"


@dataclasses.dataclass(frozen=True)
class Published:
    """One published number.

    Attributes:
        benchmark: by our name.
        name: of the method as its authors call it.
        method: by our name, with the variant after a slash; None where we do not have it.
        value: percent.
        printed: the same as the source prints it, digits and all.
        metric: a key of `METRICS`.
        convention: which classes the mean runs over ("gt", "union", "all"); None if unknown.
        backbone, settings: what else it depends on.
        title, url, where: of the source, and the place in it.
        read: "itself", or who quotes the source.
        forgets_missed: the number does not count pixels that the method gave to no class.
    """

    benchmark: str
    name: str
    method: str | None
    value: float
    printed: str
    metric: str
    convention: str | None
    backbone: str
    settings: str
    title: str
    url: str
    where: str
    read: str
    forgets_missed: bool = False

    @property
    def source(self) -> str:
        """One line that says where the number is from."""
        return f"{self.title}, {self.where}" + ("" if self.read == "itself" else "; quoted")


@functools.lru_cache(maxsize=1)
def published_numbers() -> tuple[Published, ...]:
    """Reads all numbers, in the file's order."""
    path = importlib.resources.files("openseg_jax.data") / "published.json"
    # Numbers stay text at first: 12.0 and 12 say different things.
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), parse_float=str)
    found = []
    for row in read["rows"]:
        source = read["sources"][row["source"]]
        shared = {key: row[key] for key in ("name", "method", "backbone", "metric", "convention")}
        found += [
            Published(
                benchmark=benchmark,
                value=float(printed),
                printed=printed,
                settings=row["settings"],
                where=row["where"],
                forgets_missed=benchmark in row.get("forgets_missed", ()),
                **shared,
                **source,
            )
            for benchmark, printed in row["values"].items()
        ]
    return tuple(found)


def published(
    benchmark: str, methods: Sequence[str] | None = None, metrics: Sequence[str] | None = None
) -> tuple[Published, ...]:
    """Returns the numbers of a benchmark, those of our own methods first, the best of them first.

    Args:
        benchmark: by our name; one without numbers gives none.
        methods: our names; a name without a variant stands for all its variants. None for all,
            those that we do not have included.
        metrics: keys of `METRICS`; None for all.
    """
    found = [one for one in published_numbers() if one.benchmark == benchmark]
    if metrics is not None:
        found = [one for one in found if one.metric in metrics]
    if methods is not None:
        found = [one for one in found if any(_is(one.method, name) for name in methods)]
    kinds = list(METRICS)
    return tuple(
        sorted(found, key=lambda o: (kinds.index(o.metric), o.method is None, -o.value, o.name))
    )


def _is(method: str | None, name: str) -> bool:
    return method is not None and (method == name or method.split("/")[0] == name)


def markdown() -> str:
    """Writes all numbers as Markdown: a table for each metric, and the sources."""
    numbers, out = published_numbers(), []
    sources: dict[tuple[str, str, str], int] = {}
    for one in numbers:
        sources.setdefault((one.title, one.url, one.read), len(sources) + 1)
    for metric, label in METRICS.items():
        for task, chosen in (("", _semantic), (", referring expressions", _referring)):
            rows = [one for one in numbers if one.metric == metric and chosen(one)]
            if rows:
                out += [f"{label}{task}, %:", "", *_table(rows, sources), ""]
    out += ["Sources:", ""]
    for (title, url, read), number in sources.items():
        quoted = "" if read == "itself" else f"; {read}"
        out.append(f"{number}. [{title}]({url}){quoted}")
    return "\n".join(out)


def _referring(one: Published) -> bool:
    return one.benchmark.startswith("refcoco")


def _semantic(one: Published) -> bool:
    return not _referring(one)


def _table(rows: Sequence[Published], sources: dict[tuple[str, str, str], int]) -> list[str]:
    columns = list(dict.fromkeys(one.benchmark for one in rows))
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for one in rows:
        number = sources[one.title, one.url, one.read]
        key = (one.name, one.backbone, one.convention or "", one.settings, f"{number}, {one.where}")
        lines.setdefault(key, {})[one.benchmark] = one.printed
    header = ["method", "backbone", "mean over", *columns, "settings", "source"]
    out = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for (name, backbone, convention, settings, where), values in lines.items():
        cells = [values.get(column, "") for column in columns]
        out.append("| " + " | ".join([name, backbone, convention, *cells, settings, where]) + " |")
    return out


def renew(text: str) -> str:
    """Replaces the table between the marks of a document.

    Raises:
        UserError: when the marks are not there.
    """
    if text.count(_BEGIN) != 1 or text.count(_END) != 1:
        raise UserError(f"document: expected one line {_BEGIN!r} and one {_END!r}; put them in")
    before, rest = text.split(_BEGIN)
    after = rest.split(_END)[1]
    return f"{before}{_BEGIN}\n\n{markdown()}\n\n{_END}{after}"


def main(paths: Sequence[str]) -> int:
    """Renews the table of published numbers in documents."""
    for path in map(Path, paths):
        text = renew(path.read_text(encoding="utf-8"))
        with atomic_write(path) as aside:
            aside.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

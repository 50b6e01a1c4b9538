"""Evaluate methods on a benchmark: exact counts, three kinds of mIoU, a report with pictures.

openseg evaluate --benchmark miniature --method car,maft,clip_dense     (no download)
openseg evaluate --benchmark voc21 --method car --model ViT-B-16 --data-dir data

Files: OUT/BENCHMARK/report.json, .md and .html, and the counts of each picture, from which the same
command goes on after it was stopped.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openseg_jax.cli import distributed
from openseg_jax.cli.shared import output_console, progress_bar
from openseg_jax.cli.train import base_config, load_config, override
from openseg_jax.errors import UserError, expected

if TYPE_CHECKING:
    from openseg_jax.eval.evaluate import Evaluator
    from openseg_jax.eval.referring import ReferringEvaluator

CONFIGS = "openseg_jax.configs.eval"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `openseg evaluate`."""
    what = parser.add_argument_group("what")
    what.add_argument(
        "-b", "--benchmark", metavar="NAME",
        help="voc20, voc21, pc59, …, miniature, or a folder of your own with images/, labels/ and "
        "classes.txt (miniature)",
    )  # fmt: skip
    what.add_argument(
        "--method", metavar="LIST",
        help="car, maft, segclip, clip_dense; several for a table; clip_dense/sclip is a variant",
    )  # fmt: skip
    what.add_argument(
        "--model", action="append", default=[], metavar="NAME",
        help="name or folder; repeat METHOD=NAME where methods need their own (miniature)",
    )  # fmt: skip
    what.add_argument("--data-dir", metavar="DIR", help="root of the data sets ($OPENSEG_DATA)")
    what.add_argument(
        "--names", metavar="LIST",
        help="texts for the classes: a vocabulary, or plain (those of each published evaluation)",
    )  # fmt: skip
    what.add_argument("--limit", type=int, metavar="N", help="only the first N pictures")
    how = parser.add_argument_group("how")
    how.add_argument("--config", metavar="FILE", help="of configs/eval: miniature, car:voc21, …")
    how.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="of the config, or of a method: car.refine=none",
    )  # fmt: skip
    how.add_argument("--parity", choices=("reference",), help="the published behaviour, with bugs")
    how.add_argument("--batch", type=int, metavar="N", help="pictures a device gets at once (8)")
    distributed.add_arguments(parser.add_argument_group("several processes"), "the pictures")
    out = parser.add_argument_group("output")
    out.add_argument("-o", "--out", default="openseg_eval", metavar="DIR", help="(%(default)s)")
    out.add_argument("--json", action="store_true", help="print the report's JSON")


def run(args: argparse.Namespace) -> int:
    """Runs `openseg evaluate`."""
    config = configured(args)
    distributed.join(args)
    import jax

    from openseg_jax.eval import report

    _check_out(Path(args.out))
    jobs = evaluators(config)
    folder = Path(args.out) / jobs[0].bench.name
    results, first = [], jax.process_index() == 0
    with progress_bar() as bar:
        for job in jobs:
            task = bar.add_task(job.method)

            def tell(done: int, count: int, task: Any = task) -> None:
                bar.update(task, completed=done, total=count)

            limit = config.limit or None
            results.append(job.run(limit=limit, workdir=folder, progress=tell))
    if not first:
        return 0
    files = report.write_reports(folder, results, pictures=[job.look for job in jobs])
    if args.json:
        json.dump(report.to_json(results), sys.stdout, ensure_ascii=False, allow_nan=False)
        print()
    else:
        print_results(results)
        print("wrote " + ", ".join(str(file) for file in files))
    return 0


def configured(args: argparse.Namespace) -> Any:
    """Collects the config: its file, then flags, then --set.

    Raises:
        UserError: for unknown names or values out of range.
    """
    config: Any = load_config(args.config, CONFIGS) if args.config else base_config(CONFIGS)
    config = config.copy_and_resolve_references()
    for name in ("benchmark", "data_dir", "names", "parity", "batch", "limit"):
        value = getattr(args, name)
        if name == "limit" and value is not None and value < 1:
            raise expected("--limit", "at least 1 picture", str(value), "leave it out to take all")
        if value is not None:
            config[name] = value
    if args.method is not None:
        config.methods = tuple(x.strip() for x in args.method.split(",") if x.strip())
    if not config.methods:
        raise expected("--method", "at least one method", "none", "try car")
    for text in args.model:
        method, equals, name = text.partition("=")
        if equals and method in config.settings:
            with config.unlocked():
                config.models[method] = name
        else:
            config.model = text
    own = [text for text in args.set if re.split("[.=]", text)[0] in config.settings]
    config = override(config, [text for text in args.set if text not in own])
    for text in own:
        _set_method(config, text)
    if config.limit < 0:
        raise expected("limit", "0 for all, or more", str(config.limit), "correct it")
    return config


def _set_method(config: Any, text: str) -> None:
    key, equals, value = text.partition("=")
    method, _, name = key.partition(".")
    if not equals or not name:
        raise UserError(f"--set: expected METHOD.KEY=VALUE, got {text!r}; add what is missing")
    try:
        read = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        read = value
    with config.unlocked():
        config.settings[method][name] = read


def evaluators(config: Any) -> list[Evaluator | ReferringEvaluator]:
    """Opens the data and loads every method, so that a mistake stops all before anything runs.

    Args:
        config: with the keys of configs/eval/base.py.
    Raises:
        UserError: naming what is wrong.
    """
    from openseg_jax import api
    from openseg_jax.eval.benchmarks import texts_for
    from openseg_jax.eval.evaluate import Evaluator, Options
    from openseg_jax.eval.referring import ReferringEvaluator
    from openseg_jax.eval.rules import settings_for

    options = Options(
        batch=config.batch, canvas=config.canvas, max_side=config.max_side, threads=config.threads
    )
    doubled = {name for name in config.methods if list(config.methods).count(name) > 1}
    if doubled:
        raise UserError(f"--method: {sorted(doubled)[0]!r} is given twice; name it once")
    bench, wanted = find_benchmark(config.benchmark), []
    referring = bench.task == "referring"
    for name in config.methods:
        method = name.partition("/")[0]
        # Settings that are dicts themselves come out as such, not as parts of a config.
        given = config.settings.to_dict().get(method, {})
        settings = settings_for(bench, name, given, config.parity or None)
        if referring and method == "car":
            settings = {"canvas": config.canvas} | settings
        texts = None if referring else texts_for(bench, method, config.names or None)
        wanted.append((name, method, settings, texts))
    source = open_source(bench, config)
    jobs: list[Any] = []
    for name, method, settings, texts in wanted:
        model = str(config.models.get(method, config.model))
        segmenter = api.load(method, model, api.frozen_settings(settings))
        # Published numbers are found by the variant, also by that which nobody asked for.
        variant = getattr(getattr(segmenter, "config", None), "variant", "")
        if variant and "/" not in name:
            name = f"{name}/{variant}"
        if texts is None:
            job: Any = ReferringEvaluator(
                segmenter, bench, source, method=name, model=model, max_side=config.max_side,
                parity=config.parity or None,
            )  # fmt: skip
        else:
            job = Evaluator(
                segmenter, bench, source, texts, method=name, model=model, options=options
            )
        jobs.append(job)
    return jobs


def find_benchmark(name: str) -> Any:
    """Finds a benchmark by name; a folder is a benchmark of the user's own.

    Raises:
        UserError: for an unknown name, with the nearest one.
    """
    from openseg_jax.eval.benchmarks import benchmark, own_benchmark
    from openseg_jax.eval.miniature_benchmark import MINIATURES

    if name in MINIATURES:
        return MINIATURES[name]
    if Path(name).is_dir():
        return own_benchmark(Path(name))
    return benchmark(name, also=MINIATURES)


def open_source(bench: Any, config: Any) -> Any:
    """Opens the data set of a benchmark.

    Raises:
        UserError: when it is not there, with the command to run.
    """
    from openseg_jax.eval.miniature_benchmark import MINIATURES, Scenes
    from openseg_jax.inputs.labelled_set import open_folder, open_set
    from openseg_jax.inputs.referring_set import open_referring

    if bench.name in MINIATURES:
        return Scenes(things=bench.background)
    if Path(config.benchmark).is_dir():
        return open_folder(config.benchmark, name=bench.name)
    root = config.data_dir or os.environ.get("OPENSEG_DATA", "")
    if not root:
        raise expected(
            "--data-dir", f"the folder with the data set {bench.data_set}", "none",
            f"prepare it with openseg data prepare {bench.data_set} --root DIR and name DIR, or "
            "try --benchmark miniature",
        )  # fmt: skip
    if bench.task == "referring":
        return open_referring(bench.data_set, bench.part, root)
    return open_set(bench.data_set, root)


def print_results(results: Sequence[Any]) -> None:
    """Prints the table of methods, the published numbers, times and the provenance."""
    from rich.markup import escape

    from openseg_jax.eval import report_tables

    console = output_console()
    first = report_tables.summary(results)
    _print_table(console, first, across=True)
    for one in report_tables.beside_published(results):
        _print_table(console, one)
    _print_table(console, report_tables.timings(results), across=True)
    for result in results:
        console.print(escape(report_tables.provenance_line(result)))


def _print_table(console: Any, one: Any, *, across: bool = False) -> None:
    """Prints a table; `across` turns its rows into columns: methods are few, metrics many."""
    from rich.markup import escape
    from rich.table import Table

    from openseg_jax.eval import report_tables

    rows = [[escape(report_tables.shown(cell)) for cell in row] for row in one.rows]
    header = [escape(name) for name in one.header]
    numbers = report_tables.numeric_columns(one)
    if across:
        rows = [list(column) for column in zip(header, *rows, strict=True)]
        header, rows = rows[0], rows[1:]
        numbers = [False] + [True] * len(one.rows)
    table = Table(title=escape(one.title), title_justify="left")
    for name, number in zip(header, numbers, strict=True):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for note in one.notes:
        console.print(escape(note))


def _check_out(out: Path) -> None:
    """Finds out before anything is loaded whether results can be kept; makes nothing."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise expected("--out", "a folder", f"the file {there}", "choose another")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--out: cannot write in {there}; choose another")

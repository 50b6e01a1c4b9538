"""The command line of the launcher: options to a `Run`, a `Run` to a script, a script to bash."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch import checks, records
from launch.accelerators import accelerator
from launch.command import parse
from launch.run import ACTIONS, ROOT, Run, check_name
from launch.targets import TARGETS, load
from openseg_jax.cli.main import Parser
from openseg_jax.errors import UserError, unknown_name

ON_GOOGLE = ("tpu-vm", "gke")
# What a later call need not repeat.
REMEMBERED = ("type", "zone", "project", "capacity", "cluster", "host")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; mistakes are one line and code 2."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _main(argv)
    except UserError as error:
        print("launch:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (say, `head`) has gone; keep Python from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"launch: {error.filename or 'files'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("launch: interrupted; what was started goes on", file=sys.stderr)
        return 130


def _main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_table())
        return 0 if argv else 2
    target, rest = argv[0], argv[1:]
    if target not in TARGETS:
        unknown_name(target, TARGETS, "target")
    cut = rest.index("--") if "--" in rest else len(rest)
    args = _parser(target).parse(rest[:cut])
    run = _run(target, args, rest[cut + 1 :])
    script = getattr(load(target), run.action)(run)
    if args.dry_run:
        print(script, end="")
        return 0
    checks.warn(checks.check(run))
    if run.action == "start":
        # Before the first command: what is half made costs as well.
        records.save(target, run.name, {key: getattr(args, key, None) for key in REMEMBERED})
    code = _execute(script)
    if run.action == "delete" and code == 0:
        records.forget(target, run.name)
    return code


def _execute(script: str) -> int:
    """Runs a script with bash, from a file: its standard input stays the terminal's."""
    with tempfile.TemporaryDirectory(prefix="openseg_launch_") as folder:
        file = Path(folder) / "launch.sh"
        file.write_text(script, encoding="utf-8")
        try:
            return subprocess.run(["bash", str(file)], check=False).returncode
        except OSError as error:
            raise UserError(f"bash: {error.strerror}; the launcher needs bash") from error


def _parser(target: str) -> Parser:
    parser = Parser(
        prog=f"python -m launch {target}",
        description=f"{TARGETS[target].use}. What follows -- is an openseg command line.",
        epilog=f"typical: python -m launch {target} --name RUN {TARGETS[target].example} "
        "-- train --config clip_finetune --workdir gs://BUCKET/RUN",
        allow_abbrev=False,
    )
    parser.add_argument("--name", required=True, help="of the run and of all that is made for it")
    parser.add_argument("--dry-run", action="store_true", help="print the script, run nothing")
    what = parser.add_argument_group("instead of starting").add_mutually_exclusive_group()
    for name, text in (
        ("logs", "follow the log"),
        ("status", "say what is there and what it does"),
        ("stop", "end the command after a last checkpoint; machines stay, and cost"),
        ("delete", "delete all that the run made and that costs money"),
    ):
        what.add_argument(f"--{name}", dest="action", action="store_const", const=name, help=text)
    how = parser.add_argument_group("how")
    how.add_argument("--watch", action="store_true", help="stay until the command has ended")
    restarts = 0 if target == "local" else 10
    again = "tries after a failed one, from the last checkpoint (%(default)s)"
    how.add_argument("--restarts", type=_count, default=restarts, metavar="N", help=again)
    if target != "local":
        how.add_argument("--python", choices=("3.11", "3.12"), default="3.12",
                         help="of the pinned environment (%(default)s)")  # fmt: skip
    _target_options(parser.add_argument_group("machines"), how, target)
    return parser


def _target_options(where: Any, how: Any, target: str) -> None:
    if target in ON_GOOGLE:
        where.add_argument("--type", help="TPU slice: v5e-256, v5p-128, v4-512, v6e-256, tpu7x-64")
        where.add_argument("--zone", help="(gcloud's default)")
        where.add_argument("--project", help="(gcloud's default)")
        paid = where.add_mutually_exclusive_group()
        paid.add_argument("--spot", action="store_true", help="cheaper, and taken away at any time")
        paid.add_argument("--reserved", nargs="?", const="", metavar="NAME",
                          help="from your reservation")  # fmt: skip
        well = "with --watch: delete all when the command has ended well"
        how.add_argument("--delete-after", action="store_true", help=well)
        how.add_argument("--worker", type=_count, default=0, help="whose log --logs follows (0)")
    if target == "gke":
        where.add_argument("--cluster", default="", help="one that is there (makes one: RUN)")
    if target == "slurm":
        where.add_argument("--nodes", type=_positive, default=1, help="(%(default)s)")
        where.add_argument("--gpus", type=_positive, default=8, help="of a node (%(default)s)")
        where.add_argument("--time", type=_limit, help="limit, as in 24:00:00 (the partition's)")
    if target == "gpu":
        where.add_argument("--host", default="", help="user@box (this machine)")
    if target in ("gpu", "slurm"):
        how.add_argument("--cuda", choices=("12", "13"), default="12", help="(%(default)s)")
    if target == "local":
        where.add_argument("--processes", type=_positive, default=2, help="(%(default)s)")
        where.add_argument("--devices", type=_positive, default=1, help="of each (%(default)s)")
    if target not in ("gpu", "local"):
        where.add_argument("--extra", action="append", default=[], metavar="FLAG",
                           help="one more flag of the command that asks for the machines: "
                           "--extra=--partition=gpu")  # fmt: skip


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("expected 0 or more")
    return value


def _limit(text: str) -> str:
    if not re.fullmatch(r"([0-9]+-)?[0-9]+(:[0-9]+){0,2}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no time limit, such as 24:00:00 or 2-12")
    return text


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return value


def _run(target: str, args: argparse.Namespace, words: list[str]) -> Run:
    """Makes the `Run`, from the options, the run's record and gcloud's configuration."""
    name, action = check_name(args.name), args.action or ACTIONS[0]
    values = vars(args)
    values["capacity"], values["reservation"] = _capacity(values)
    if action != "start":
        if words:
            raise UserError(f"--{action}: expected no command line after --, got one; leave it out")
        for key, value in records.load(target, name).items():
            if key in REMEMBERED and values.get(key) in (None, "", "on-demand"):
                values[key] = value
    if values.get("delete_after") and not args.watch:
        raise UserError("--delete-after: expected --watch beside it, got none; add --watch")
    command = parse(words, None if target == "local" else ROOT) if action == "start" else None
    if target in ON_GOOGLE:
        if action == "start" and not args.type:
            raise UserError(f"--type: expected a TPU slice, got none; add --type v5e-16 "
                            f"(python -m launch {target} --help lists more)")  # fmt: skip
        values["project"] = values["project"] or checks.google_default("core/project", "--project")
        values["zone"] = values["zone"] or checks.google_default("compute/zone", "--zone")
    kind = values.get("type")
    return Run(
        target=target,
        name=name,
        action=action,
        command=command,
        accelerator=accelerator(kind) if kind else None,
        extra=tuple(values.get("extra") or ()),
        hours=values.get("time") or "",
        **{key: values[key] for key in _FIELDS if values.get(key) is not None},
    )


_FIELDS = (
    "project", "zone", "capacity", "reservation", "cluster", "host", "nodes", "gpus", "processes",
    "devices", "cuda", "python", "restarts", "watch", "delete_after", "worker",
)  # fmt: skip


def _capacity(values: dict[str, Any]) -> tuple[str, str]:
    if values.get("spot"):
        return "spot", ""
    if values.get("reserved") is not None:
        return "reserved", values["reserved"]
    return "on-demand", ""


def _told(target: str, name: str) -> str:
    options = records.load(target, name)
    told = [options[key] for key in ("type", "capacity", "zone", "host") if options.get(key)]
    return f"  ({', '.join(told)})" if told and target in ON_GOOGLE else ""


def _table() -> str:
    width = max(map(len, TARGETS))
    rows = "\n".join(f"  {name:<{width}}  {entry.use}" for name, entry in TARGETS.items())
    text = (
        "usage: python -m launch TARGET --name RUN [options] -- OPENSEG COMMAND LINE\n\n"
        f"targets:\n{rows}\n\n"
        "later:   python -m launch TARGET --name RUN --logs | --status | --stop | --delete\n"
        "before:  add --dry-run to see the script that would run, and nothing else happens\n"
        "options: python -m launch TARGET --help; what to take when: launch/README.md"
    )
    paid = [(target, name) for target, name in records.known() if target != "local"]
    started = [f"  {target} --name {name}{_told(target, name)}" for target, name in paid]
    if started:
        text += "\n\nstarted from here and not deleted (they may cost):\n" + "\n".join(started)
    return text

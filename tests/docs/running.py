"""Runs the pages' blocks. What is changed in a command before it runs is in `LIGHTER`, and said.

Commands of `openseg` run in this process, which saves the seconds that JAX takes to start; blocks
that need a shell (variables, jobs, pipes) run in bash with this environment's programs first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from openseg_jax.cli.main import main
from tests.docs.blocks import ROOT, Block, Command, commands_of
from tests.docs.parsing import FOREIGN, check_command

SECONDS = 600
# Programs that a scratch folder has and that do no harm there.
HARMLESS = {"head", "touch", "echo", "ls", "cat", "mkdir", "cp", "cd"}


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a command gets beside its own words, and the exit codes that are right then.

    Attributes:
        pattern: searched in the command.
        more: appended; options that come last win.
        codes: exit codes that mean that the command did what the page says.
        why: said in the report.
    """

    pattern: str
    more: str
    codes: tuple[int, ...]
    why: str


LIGHTER = (
    Rule(
        r"^openseg train (?!.*:(\w+,)?tiny)",
        "--set steps=2 --set batch_size=4 --set log_every=1 --set checkpoint_every=2 "
        "--set accumulate=1 --set input.workers=0 --set input.threads=1 --set optim.warmup=1",
        (0,), "two steps of 4 examples",
    ),
    Rule(
        r"^openseg train .*segclip", "--set task.segclip.start_pictures=4", (0,),
        "centres from 4 pictures",
    ),
    Rule(
        r"^openseg train .*=regions",
        "--set batch_size=2 --set steps=1 --set optim.warmup=0 --set input.masks.count=8",
        (0,), "one step: regions take seconds a picture",
    ),
    Rule(r"^openseg train .*evaluate\.every=200", "--set evaluate.every=1", (0,), "asked at once"),
    Rule(r"^openseg evaluate ", "--limit 2", (0,), "two pictures"),
    Rule(r"^openseg data verify voc", "", (2,), "a stand-in has too few pictures"),
    Rule(r"^openseg demo", "--images 2", (0,), "two scenes"),
    Rule(r"^openseg gates --method", "--scenes 2 --seeds 1", (0, 1), "2 scenes"),
    Rule(r"^openseg claim", "--scenes 2 --seeds 1", (0, 1), "2 scenes"),
    Rule(r"^openseg interpolate .*--evaluate", "", (0,), "as written"),
)  # fmt: skip
# Commands of which a run would need what no test has: they are parsed, each by its program.
PARSED = (
    (r"^openseg plan .*--topology", "compiles for minutes, TPUs with libtpu: tests/plan runs it"),
    (r"^openseg train .*--distributed", "needs several machines: tests/train/test_processes.py"),
    (r"^openseg serve\b", "goes on until it is ended: tests/web runs it in a browser"),
    (r"^openseg (push (?!.*--dry-run)|pull\b)", "needs a hub: tests/cli/test_push_pull.py has one"),
    (r"^pip install", "needs a package index: .ci/run installs from a bare checkout"),
    (r"^pytest", "this suite itself: .ci/run"),
    (
        r"^python -m launch",
        "asks a cloud for machines: dry-run here, played in tests/launch",
    ),
    (r"^python launch/", "writes into the checkout: tests/launch hold that it is in step"),
)


def rules_for(words: list[str]) -> list[Rule]:
    """Returns the rules that a command falls under."""
    text = shlex.join(words)
    return [rule for rule in LIGHTER if re.search(rule.pattern, text)]


def parsed_only(words: tuple[str, ...]) -> str:
    """Returns why a command is parsed and not run, or ""."""
    text = " ".join(words)
    for pattern, why in PARSED:
        if re.search(pattern, text):
            return why
    if words[0] in FOREIGN - HARMLESS:
        return f"{words[0]} is somebody else's program"
    return ""


def needs_shell(found: list[Command]) -> bool:
    """Whether a block is more than one simple command after another."""
    return any(c.variables or c.end not in ("\n", ";", "&&") for c in found)


def run_block(block: Block, said: list[str]) -> None:
    """Runs a block in the working folder; `said` gets a line for each command.

    Raises:
        AssertionError: with the command and what it printed, when one fails.
    """
    if block.reason:
        said.append(f"{block}: parsed only: {block.reason}")
        return
    if block.language == "python":
        run_python(block.text)
        said.append(f"{block}: ran")
        return
    found = commands_of(block.text)
    if needs_shell(found):
        run_shell(block)
        said.append(f"{block}: ran in bash")
        return
    for command in found:
        why = parsed_only(command.words)
        if why:
            check_command(command)
            said.append(f"{block}: parsed only: {shlex.join(command.words)}: {why}")
        else:
            start = time.process_time()
            text = run_words(list(command.words))
            said.append(f"{block}: ran: {text} ({time.process_time() - start:.0f} CPU s)")


def run_words(words: list[str]) -> str:
    """Runs one command; returns how it was called."""
    rules = rules_for(words)
    call = [*words, *(word for rule in rules for word in shlex.split(rule.more))]
    codes = {code for rule in rules for code in rule.codes} - ({0} if _must_fail(rules) else set())
    out = io.StringIO()
    if words[0] == "openseg":
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = main(call[1:])
        printed = out.getvalue()
    else:
        call[0] = sys.executable if words[0] == "python" else words[0]
        code, printed = _process(call)
    text = shlex.join(call)
    assert code in (codes or {0}), f"{text}\nexit code {code}\n{printed[-2000:]}"
    return text


def _must_fail(rules: list[Rule]) -> bool:
    return any(0 not in rule.codes for rule in rules)


def run_shell(block: Block) -> None:
    """Runs a block in bash as it stands, and stops at the first command that fails."""
    code, printed = _process(["bash", "-euo", "pipefail", "-c", block.text])
    assert code == 0, f"{block}\nexit code {code}\n{printed[-2000:]}"


def run_python(text: str) -> None:
    """Runs a block of Python with nothing defined before it."""
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(text, "<block>", "exec"), {"__name__": "__main__"})


def environment() -> dict[str, str]:
    """Returns what a process gets: this environment's programs first, this checkout importable."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": programs, "PYTHONPATH": str(ROOT)}


def _process(call: list[str]) -> tuple[int, str]:
    done = subprocess.run(
        call, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment()
    )
    return done.returncode, done.stdout + done.stderr

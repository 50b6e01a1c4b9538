"""Checks commands and Python blocks without running them: a renamed flag or function fails.

Every `openseg` command is read by the verb's own parser; trainings, plans and evaluations also by
what reads their config and `--set`. `python -m launch` is dry-run. What pip is asked to install
is compared with setup.py, and pytest's words with the tests that are there.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import io
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openseg_jax.cli.main import VERBS, Parser
from openseg_jax.errors import unknown_name
from tests.docs.blocks import ROOT, Block, Command, commands_of

# Programs of others, with what a page may use of them: nothing of ours can be checked there.
FOREIGN = {
    "gcloud", "tensorboard", "mkdocs", "kill", "wait", "echo", "touch", "head", "cd", "ls", "mkdir",
    "cp", "git", "jupyter", "docker", "curl", "unzip", "source", "cat", "xprof",
}  # fmt: skip


def check_command(command: Command) -> None:
    """Raises UserError, AssertionError or ValueError for a command that cannot work."""
    words = command.words
    program = words[0]
    if program == "openseg":
        check_openseg(list(words[1:]))
    elif program in ("python", "python3") and words[1:2] == ("-m",):
        _check_module(words[2], list(words[3:]))
    elif program in ("python", "python3"):
        if words[1] == "-c":
            check_python(words[2])
        # Other files are what an earlier command of the page has written.
        elif (ROOT / words[1].partition("/")[0]).is_dir():
            assert (ROOT / words[1]).is_file(), f"{words[1]}: no such file"
    elif program == "pip":
        _check_pip(list(words[1:]))
    elif program == "pytest":
        _check_pytest(list(words[1:]))
    else:
        assert program in FOREIGN, f"{program}: no program that a page may use"


def check_openseg(argv: list[str]) -> None:
    """Parses the words after `openseg`, by the verb's parser and what reads its configs."""
    assert argv, "openseg: no verb"
    if argv[0] in ("--help", "--version"):
        return
    if argv[0] not in VERBS:
        unknown_name(argv[0], VERBS, "verb")
    module: Any = importlib.import_module(VERBS[argv[0]][0])
    parser = Parser(prog=f"openseg {argv[0]}", allow_abbrev=False)
    module.add_arguments(parser)
    if "--help" in argv:
        return
    args = parser.parse(argv[1:])
    deeper: dict[str, Callable[[Any], Any]] = {
        "train": _check_train, "evaluate": _check_evaluate, "plan": _check_plan,
        "segment": _check_segment,
    }  # fmt: skip
    if argv[0] in deeper:
        deeper[argv[0]](args)


def _in_checkout(config: str) -> str:
    where, colon, arg = config.partition(":")
    return str(ROOT / where) + colon + arg if where.endswith(".py") else config


def _check_train(args: Any) -> None:
    from openseg_jax.cli.train import load_config, override

    override(load_config(_in_checkout(args.config)), args.set)


def _check_evaluate(args: Any) -> None:
    from openseg_jax.cli.evaluate import configured, find_benchmark
    from openseg_jax.methods.base import METHODS

    config = configured(args)
    for name in config.methods:
        if name.partition("/")[0] not in METHODS:
            unknown_name(name, METHODS, "method")
    # A lower-case name with an underscore and no such benchmark may be a folder of the reader's.
    if not config.benchmark.startswith(("my_", "mine")):
        find_benchmark(config.benchmark)


def _check_plan(args: Any) -> None:
    from openseg_jax.cli.plan import parse_mesh
    from openseg_jax.plan.topology import parse

    assert args.topologies or (args.topology and bool(args.config) != bool(args.inference))
    if args.topology:
        parse(args.topology)
    parse_mesh(args.mesh)
    if args.config:
        _check_train(args)


def _check_segment(args: Any) -> None:
    from openseg_jax.cli.segment import settings_of

    settings_of(args)


def _check_module(name: str, argv: list[str]) -> None:
    if name == "launch":
        _check_launch(argv)
        return
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin, f"python -m {name}: no such module"
    path = Path(spec.origin)
    if path.name == "__init__.py":
        path = path.with_name("__main__.py")
    assert path.is_file(), f"python -m {name}: cannot be run"
    # The module's own flags are strings in its source, or in what it takes them from.
    known = {
        node.value
        for file in {path, *(path.parent.glob("*.py") if path.name == "__main__.py" else ())}
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    for word in argv:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in known and name.startswith(("tests", "openseg")):
            unknown_name(flag, known, f"option of python -m {name}")


def _check_launch(argv: list[str]) -> None:
    from launch import cli

    if not argv:
        return
    cut = argv.index("--") if "--" in argv else len(argv)
    options = argv[:cut]
    on_google = options[0] in ("tpu-vm", "gke")
    more = ["--dry-run"] if "--dry-run" not in options else []
    for flag, value in (("--zone", "ZONE"), ("--project", "PROJECT")):
        more += [flag, value] if on_google and flag not in options else []
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = cli.main([*options, *more, *argv[cut:]])
    assert code == 0, said.getvalue()[-500:]


def _check_pip(words: list[str]) -> None:
    if words[:1] != ["install"]:
        return
    extras = extras_of_setup()
    for word in words[1:]:
        ours = re.fullmatch(r"(?:\.|openseg_jax)(?:\[([\w,-]+)\])?", word)
        if ours and ours[1]:
            for extra in ours[1].split(","):
                if extra not in extras:
                    unknown_name(extra, extras, "extra of setup.py")
        assert ours or not word.startswith((".", "openseg")), f"pip install {word}"


def extras_of_setup() -> dict[str, list[str]]:
    """Returns `extras_require` of setup.py."""
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "EXTRAS":
            return ast.literal_eval(node.value)
    raise AssertionError("setup.py: no EXTRAS")


def _check_pytest(words: list[str]) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for flag, value in zip(words, [*words[1:], ""], strict=False):
        if flag == "-m" and value:
            for name in re.findall(r"\w+", value):
                if name not in ("not", "and", "or"):
                    assert f'"{name}:' in text, f"pytest -m {name}: no such marker"
        elif flag == "-k":
            for name in re.findall(r"\w+", value):
                if name not in ("not", "and", "or"):
                    assert any(name in str(p) for p in (ROOT / "tests").rglob("test_*.py")), name
        elif flag.startswith("tests/"):
            assert (ROOT / flag.partition("::")[0]).exists(), flag


def check_bash(block: Block) -> None:
    """Checks a whole block: bash's own grammar, then every command."""
    done = subprocess.run(
        ["bash", "-n"], input=block.text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{block}: {done.stderr}"
    found = commands_of(block.text)
    assert found, f"{block}: a block of bash without a command"
    for command in found:
        try:
            check_command(command)
        except Exception as error:
            raise AssertionError(f"{block}: {shlex.join(command.words)}: {error}") from error


def check_python(text: str) -> None:
    """Compiles a block, and looks up what it imports and the attributes that it takes of ours."""
    tree = ast.parse(text)
    modules: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                module = importlib.import_module(alias.name)
                name = alias.asname or alias.name.partition(".")[0]
                modules[name] = module if alias.asname else importlib.import_module(name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                if hasattr(module, alias.name):
                    modules[alias.asname or alias.name] = getattr(module, alias.name)
                else:
                    importlib.import_module(f"{node.module}.{alias.name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = modules.get(node.value.id)
            if owner is not None and (isinstance(owner, type) or type(owner).__name__ == "module"):
                assert hasattr(owner, node.attr), f"{node.value.id} has no {node.attr}"

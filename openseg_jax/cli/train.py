"""`openseg train`: trains from a config file and writes checkpoints and a model folder.

The same command goes on where it stopped. Exit codes beside those of every verb: 143 after
SIGTERM or a preemption notice, 130 after Ctrl-C, both with the state saved; start it again.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import math
import os
import sys
from collections.abc import Sequence
from logging import INFO, WARNING
from pathlib import Path
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict

from openseg_jax.cli import distributed
from openseg_jax.errors import UserError, unknown_name

_PACKAGE = str(Path(__file__).parents[1]) + os.sep


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    parser.add_argument(
        "--config",
        required=True,
        help="a config file or its bare name, with an argument: x.py:tiny",
    )
    parser.add_argument("--workdir", required=True, help="folder for checkpoints and metrics")
    parser.add_argument(
        "--checkpoints",
        metavar="DIR",
        help="folder or gs:// address for them that all machines share (in --workdir)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a value of the config",
    )
    parser.add_argument(
        "--export", metavar="DIR", help="also write a model folder at every checkpoint"
    )
    parser.add_argument(
        "--replay", type=int, metavar="STEP",
        help="do not train: compute the loss of the kept bad_batch_STEP.npz again, and say where "
        "it is not finite",
    )  # fmt: skip
    distributed.add_arguments(parser, "the batches")


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    config = override(load_config(args.config), args.set)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # absl's own, which would be missed in a log line
    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
    logging.get_absl_handler().addFilter(_is_ours_or_matters)
    distributed.join(args)
    # JAX and grain are imported only now: `--help` stays fast.
    import jax

    from openseg_jax.train.bad_batch import replay
    from openseg_jax.train.export import export_state, exporter
    from openseg_jax.train.loop import TrainingStopped, train

    if args.replay is not None:
        _print_replay(replay(config, Path(args.workdir), args.replay, args.checkpoints))
        return 0
    if jax.process_index():
        logging.set_verbosity(logging.WARNING)  # the first process speaks for all
    hook = exporter(config, args.export) if args.export else None
    try:
        state = train(config, args.workdir, checkpoints=args.checkpoints, on_checkpoint=hook)
    except TrainingStopped as stopped:
        if not jax.process_index():
            print(f"openseg: {stopped}", file=sys.stderr)
        return stopped.exit_code
    folder = args.export or Path(args.workdir) / "model"
    export_state(config, folder, state)
    logging.info("model folder: %s", folder)
    return 0


def _print_replay(found: Any) -> None:
    """Prints numbers of a batch, and which of its gradients are not finite."""
    print(f"step {found.step}: " + ", ".join(f"{k} {v:.6g}" for k, v in found.metrics.items()))
    bad = [name for name, norm in found.gradients.items() if not math.isfinite(norm)]
    print(f"gradients that are not finite: {len(bad)} of {len(found.gradients)}", *bad, sep="\n  ")
    print("arrays and parameters that hold NaN or infinity:", ", ".join(found.unsound) or "none")


def _is_ours_or_matters(record: Any) -> bool:
    """Tells what to show: orbax alone reports forty lines a checkpoint, and warns of each stop."""
    if f"{os.sep}orbax{os.sep}" in record.pathname:
        return record.levelno > WARNING
    # By the package's own folder: environments often lie inside a checkout of the same name.
    return record.levelno > INFO or record.pathname.startswith(_PACKAGE)


def load_config(text: str, package: str = "openseg_jax.configs") -> ConfigDict:
    """Loads `path/to/name.py[:arg]` or `name[:arg]` from the installed configs.

    Args:
        text: the file or name, with its argument.
        package: of the configs; its `base` has every key.

    Raises:
        UserError: for a file that is not there, has no `get_config`, or sets an unknown key.
    """
    where, _, arg = text.partition(":")
    if where.endswith(".py"):
        path = Path(where)
        if not path.is_file():
            raise UserError(f"--config: no file {where!r}; give a config file or its bare name")
        spec = importlib.util.spec_from_file_location(f"openseg_config_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        _execute(spec.loader, module, where)
    else:
        folder = Path(importlib.import_module(package).__path__[0])
        known = sorted(p.stem for p in folder.glob("*.py") if p.stem not in ("__init__", "base"))
        if where not in known:
            unknown_name(where, known, "config")
        module = importlib.import_module(f"{package}.{where}")
    if not hasattr(module, "get_config"):
        raise UserError(f"{where}: expected a function get_config(arg), got none; add it")
    try:
        config = module.get_config(arg)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        # ConfigDict words its complaint over many lines; the first says which key.
        raise UserError(
            f"{where}: {str(error).splitlines()[0]}; keys are those of {_base(package)}"
        ) from error
    lacking = sorted(set(base_config(package).keys()) - set(config.keys()))
    if lacking:
        kind = "an evaluation's" if package.endswith(".eval") else "a training"
        raise UserError(
            f"{where}: expected {kind} config, got none of {', '.join(lacking[:4])}; "
            f"start from {_base(package)}"
        )
    return config


def _execute(loader: Any, module: Any, where: str) -> None:
    """Runs a config file; a mistake in it is the person's, not ours."""
    try:
        loader.exec_module(module)
    except (ImportError, UserError):
        raise
    except Exception as error:
        line = getattr(error, "lineno", None)
        at = f", line {line}" if line else ""
        raise UserError(
            f"{where}{at}: {type(error).__name__}: {error}; correct the file"
        ) from error


def base_config(package: str = "openseg_jax.configs") -> ConfigDict:
    """Returns the defaults of `configs/base.py`, or of a package's: every key that there is."""
    return importlib.import_module(f"{package}.base").get_config()


def _base(package: str) -> str:
    return package.removeprefix("openseg_jax.").replace(".", "/") + "/base.py"


def override(config: ConfigDict, settings: Sequence[str]) -> ConfigDict:
    """Returns the config with "a.b=value" settings applied.

    Args:
        config: as loaded; not changed.
        settings: Python literals after "=", else taken as strings; a key that holds a text takes
            what stands there as it is, so that a folder may be called 2024.

    Raises:
        UserError: for an unknown key or a value of another type.
    """
    config = config.copy_and_resolve_references()
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set: expected KEY=VALUE, got {setting!r}; add the value")
        *path, last = name.split(".")
        node: Any = config
        for key in path:
            _check_key(node, key, name)
            node = node[key]
        _check_key(node, last, name)
        try:
            value = text if isinstance(node[last], str) else ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        try:
            node[last] = value
        except TypeError as error:
            raise UserError(
                f"--set {name}: expected {type(node[last]).__name__}, got {text!r}; correct it"
            ) from error
    return config


def _check_key(node: Any, key: str, name: str) -> None:
    if not isinstance(node, ConfigDict) or key not in node:
        unknown_name(key, node.keys() if isinstance(node, ConfigDict) else (), f"--set {name}")

"""What stands after `--`: an `openseg` command line, checked before anything is paid for."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openseg_jax.cli.main import VERBS, Parser
from openseg_jax.errors import UserError, unknown_name

DISTRIBUTED = "--distributed"
# Verbs that several processes can share (openseg_jax/cli/distributed.py).
SHARED = ("train", "evaluate")
# Options that name folders to write; relative ones shall not end up in the copy of the code.
FOLDERS = ("--workdir", "--checkpoints", "--export", "--out", "-o")


@dataclasses.dataclass(frozen=True)
class Command:
    """An `openseg` command line.

    Attributes:
        argv: its words, without `openseg`.
    """

    argv: tuple[str, ...]

    @property
    def verb(self) -> str:
        """The first word."""
        return self.argv[0]

    def option(self, name: str) -> str:
        """Returns an option's last value (`--name value` or `--name=value`), or ""."""
        found = ""
        for place, word in enumerate(self.argv):
            if word == name and place + 1 < len(self.argv):
                found = self.argv[place + 1]
            elif word.startswith(f"{name}="):
                found = word.partition("=")[2]
        return found

    @property
    def workdir(self) -> str:
        """Where checkpoints go; "" where the verb has none."""
        return self.option("--workdir")

    @property
    def bucket(self) -> str:
        """The gs:// folder that --workdir names, or ""."""
        return self.workdir.rstrip("/") if self.workdir.startswith("gs://") else ""

    def elsewhere(self) -> Command:
        """Returns the command as a machine runs it, in the `code` folder beside `work`.

        A trainer's work folder is its machine's own (openseg_jax/train/loop.py), and goes with it:
        `--workdir gs://X` becomes `work`, which `mirror.py` copies to X, with the checkpoints
        written to X/checkpoints, which all machines share.
        """
        argv, bucket = list(self.argv), self.bucket
        for place, word in enumerate(argv):
            name, equals, value = word.partition("=")
            if name in FOLDERS and equals:
                argv[place] = f"{name}={self._folder(name, value)}"
            elif place and argv[place - 1] in FOLDERS:
                argv[place] = self._folder(argv[place - 1], word)
        if bucket and self.verb == "train" and not self.option("--checkpoints"):
            argv += ["--checkpoints", f"{bucket}/checkpoints"]
        return Command(tuple(argv))

    def _folder(self, name: str, value: str) -> str:
        if name == "--workdir" and self.bucket:
            return "../work"
        plain = "://" in value or value.startswith(("/", "~"))
        return value if plain else f"../{value}"

    def distributed(self, *more: str) -> tuple[str, ...]:
        """Returns the words for one of several processes.

        Args:
            more: how it finds the others; none where the machines tell (TPU, GKE, SLURM).

        Raises:
            UserError: for a verb that runs in one process.
        """
        if self.verb not in SHARED:
            raise UserError(
                f"{self.verb}: several processes can share {' and '.join(SHARED)} only; "
                "run it in one: gpu, local --processes 1, or a TPU of one host (v5e-8)"
            )
        rest = tuple(word for word in self.argv if word != DISTRIBUTED)
        return (*rest, DISTRIBUTED, *more)


def parse(argv: Sequence[str], root: Path | None) -> Command:
    """Checks an `openseg` command line the way `openseg` itself would.

    Where the checkout's dependencies are not installed here, the verb alone is checked.

    Args:
        argv: the words after `--`; a leading `openseg` is dropped.
        root: of the checkout, in which config files must lie; None where nothing is copied.

    Raises:
        UserError: for an unknown verb, option, config or setting.
    """
    argv = tuple(argv[1:] if argv and argv[0] == "openseg" else argv)
    if not argv:
        raise UserError(
            "expected an openseg command line after --, got none; "
            "add one: -- train --config clip_finetune --workdir gs://BUCKET/RUN"
        )
    if argv[0] not in VERBS:
        unknown_name(argv[0], VERBS, "verb after --")
    found = Command(argv if root is None else _config_in_checkout(argv, root))
    try:
        module: Any = importlib.import_module(VERBS[argv[0]][0])
    except ImportError:
        return found
    parser = Parser(prog=f"openseg {argv[0]}", allow_abbrev=False, add_help=False)
    module.add_arguments(parser)
    args = parser.parse(list(argv[1:]))
    if found.verb == "train":
        try:
            module.override(module.load_config(args.config), args.set)
        except ImportError:
            return found
    return found


def _config_in_checkout(argv: tuple[str, ...], root: Path) -> tuple[str, ...]:
    """Makes `--config path/x.py:arg` relative to the checkout, whose copy the machines read."""
    text = Command(argv).option("--config")
    file, colon, arg = text.partition(":")
    if not file.endswith(".py"):
        return argv
    if not Path(file).is_file():
        raise UserError(f"--config: no file {file!r}; give a config file or its bare name")
    path = Path(file).resolve()
    if not path.is_relative_to(root):
        raise UserError(
            f"--config: expected a file of the checkout, got {file!r}; "
            f"move it under {root / 'configs'} and commit it: the machines get what is committed"
        )
    inside = f"{path.relative_to(root).as_posix()}{colon}{arg}"
    return tuple(
        f"--config={inside}" if word == f"--config={text}" else
        inside if word == text and argv[place - 1] == "--config" else word
        for place, word in enumerate(argv)
    )  # fmt: skip

"""`%openseg` in notebooks: the command line inside the kernel.

%load_ext openseg_jax
%openseg segment photo.jpg --labels "cat, sofa"

A TPU belongs to one process, and so does most of a GPU's memory: `!openseg train` would not get
what the kernel holds. A mistake ends the cell, and a run of all cells, with one line.

`{NAME}` is a variable of the notebook, whatever characters it holds; as a word of its own, a list
is as many words.
"""

from __future__ import annotations

import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from absl import logging as absl_logging

from openseg_jax.cli.main import dispatch, prepare_environment, reason
from openseg_jax.cli.plan import DOES_NOT_FIT
from openseg_jax.errors import UserError, debugging

__all__ = ["openseg", "register"]

# `plan` gives JAX pretended devices, which it must do before JAX starts.
OWN_PROCESS = ("plan",)


def register(shell: Any) -> None:
    """Adds the command to an IPython shell and prepares the environment for JAX.

    Args:
        shell: IPython's `InteractiveShell`.
    """
    from IPython.core.magic import no_var_expand

    @no_var_expand
    def magic(line: str) -> None:
        openseg(line, shell.user_ns)

    prepare_environment()
    # Times and process ids of each line are for files; a reader of a notebook wants the sentences.
    absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(message)s"))
    shell.register_magic_function(magic, "line", "openseg")


def openseg(line: str, variables: Mapping[str, Any] | None = None) -> None:
    """Runs `openseg VERB ...`.

    Args:
        line: what a shell would get after `openseg`, with its quotes.
        variables: what `{NAME}` stands for.

    Raises:
        UserError: for a mistake in what was given, or where the command failed.
    """
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UserError(f"quotes: {str(error).lower()}; correct them in: {line.strip()}") from error
    words = [filled for word in words for filled in _filled(word, variables or {})]
    if words[:1] and words[0] in OWN_PROCESS:
        return _apart(words)
    try:
        code = dispatch(words)
    except SystemExit as left:  # --help
        code = left.code
    except Exception as error:
        if isinstance(error, UserError) or debugging():
            raise
        raise UserError(reason(error)) from error
    if code and words:
        raise UserError(f"{words[0]} ended early, with code {code}; see above")


def _filled(word: str, variables: Mapping[str, Any]) -> list[str]:
    """Returns a word with its variables' values; a list that is all of it gives several."""
    names = re.findall(r"\{([A-Za-z_]\w*)\}", word)
    for name in names:
        if name not in variables:
            raise UserError(f"{{{name}}}: no such variable here; run the cell that sets it")
    if len(names) == 1 and word == f"{{{names[0]}}}":
        value = variables[names[0]]
        return [str(part) for part in value] if isinstance(value, list | tuple) else [str(value)]
    return [re.sub(r"\{([A-Za-z_]\w*)\}", lambda found: str(variables[found[1]]), word)]


def _apart(words: list[str]) -> None:
    """Runs a verb in a process of its own, and shows what it prints."""
    command = [sys.executable, "-m", "openseg_jax.cli.main", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, end="")
    if done.returncode not in (0, DOES_NOT_FIT):
        raise UserError(done.stderr.strip().removeprefix("openseg: ") or f"{words[0]} failed")
    print(done.stderr, end="", file=sys.stderr)

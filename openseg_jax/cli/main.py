"""The `openseg` command: finds the verb, imports its module only, and turns mistakes into one line.

Exit codes: 0 done, 1 a defect of ours or of the machine, 2 a mistake in what was given, 130
interrupted. `OPENSEG_DEBUG=1` shows the traceback of any error. Compiled programs are kept in
`$OPENSEG_CACHE` (default `~/.cache/openseg_jax/xla`; "off" keeps none), so that a second call
does not compile again.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import importlib
import io
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import openseg_jax
from openseg_jax.cli import distributed
from openseg_jax.errors import UserError, debugging, unknown_name

VERBS = {
    "segment": ("openseg_jax.cli.segment", "segment pictures by free text"),
    "classify-masks": ("openseg_jax.cli.classify_masks", "score masks that you have"),
    "demo": ("openseg_jax.cli.demo", "render scenes, segment them, write an HTML report"),
    "serve": ("openseg_jax.cli.serve", "serve a local page: picture, labels, masks, steps"),
    "evaluate": ("openseg_jax.cli.evaluate", "measure methods on a benchmark, with a report"),
    "data": ("openseg_jax.cli.data", "prepare, verify and list data sets"),
    "train": ("openseg_jax.cli.train", "train from a config file"),
    "plan": ("openseg_jax.cli.plan", "say whether a run fits a machine, before it costs"),
    "convert": ("openseg_jax.cli.convert", "turn downloaded weights into our folder format"),
    "push": ("openseg_jax.cli.push", "upload a model folder to the Hugging Face hub"),
    "pull": ("openseg_jax.cli.pull", "download a model from the Hugging Face hub"),
    "interpolate": ("openseg_jax.cli.interpolate", "mix weights from before and after tuning"),
    "export": ("openseg_jax.cli.export", "write a method as StableHLO, to run without us"),
    "models": ("openseg_jax.cli.models", "list known models with source and licence"),
    "claim": ("openseg_jax.cli.claim", "try a paper's claim on the miniature world"),
    "summary": ("openseg_jax.cli.summary", "tell what a training did, or has done so far"),
    "gates": ("openseg_jax.cli.gates", "measure the miniature on its untouched test stream"),
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are UserErrors, with the closest option named."""

    def error(self, message: str) -> NoReturn:
        """Raises UserError instead of printing and leaving."""
        raise UserError(f"{message}; see {self.prog} --help")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parses all of `argv` or raises UserError."""
        args, rest = self.parse_known_args(argv)
        if rest:
            options = [name for action in self._actions for name in action.option_strings]
            near = difflib.get_close_matches(rest[0].split("=")[0], options, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            self.error(f"unknown argument {rest[0]!r}; {hint}".rstrip("; "))
        return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: words after `openseg`; None takes the process's own.
    Returns:
        the exit code.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names and labels may hold anything; a terminal that cannot show it gets escapes.
            stream.reconfigure(errors="backslashreplace")
    debug = debugging()
    try:
        return dispatch(argv)
    except KeyboardInterrupt:
        _complain("interrupted")
        code = 130
    except BrokenPipeError:
        # The reader (say, `head`) has gone; keep Python from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except UserError as error:
        if debug:
            raise
        _complain(str(error))
        code = 2
    except Exception as error:
        if debug:
            raise
        _complain(reason(error))
        code = 1
    distributed.leave(code)
    return code


def dispatch(argv: Sequence[str]) -> int:
    """Runs a verb and returns its exit code; errors of any kind pass through."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version", "version"):
        print(f"openseg_jax {openseg_jax.__version__}")
        return 0
    verb = argv[0]
    if verb not in VERBS:
        unknown_name(verb, VERBS, "verb")
    prepare_environment()
    module: Any = importlib.import_module(VERBS[verb][0])
    parser = Parser(
        prog=f"openseg {verb}",
        description=(module.__doc__ or "").strip().split("\n\n")[0],
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return int(module.run(parser.parse(argv[1:])) or 0)


def prepare_environment() -> None:
    """Quiets the libraries' logs and turns on the compilation cache, unless told otherwise.

    Goes through environment variables, so that JAX need not be imported for it and whatever the
    user has set wins.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    folder = cache_folder()
    if folder is not None:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def cache_folder() -> Path | None:
    """Returns the writable folder for compiled programs, or None where there is none.

    One subfolder for each kind of processor: programs compiled for one may crash on another, and
    home folders are shared between machines.
    """
    wish = os.environ.get("OPENSEG_CACHE", "")
    if wish.lower() in ("off", "none", "0"):
        return None
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(wish or Path(base) / "openseg_jax" / "xla") / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        facts = sorted({x for x in lines if x.startswith(("flags", "Features", "model name"))})
    except OSError:
        facts = [platform.processor()]
    digest = hashlib.blake2b("\n".join(facts).encode(), digest_size=4).hexdigest()
    return f"{platform.machine() or 'cpu'}-{digest}"


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in VERBS.items())
    return (
        "usage: openseg VERB [arguments]\n"
        "Open-vocabulary segmentation in JAX.\n\n"
        f"verbs:\n{verbs}\n\n"
        "openseg VERB --help lists the arguments of a verb; openseg --version prints the version.\n"
        'first try: openseg demo, then openseg segment photo.jpg --labels "zebra, grass"'
    )


def reason(error: Exception) -> str:
    """Says in one line what went wrong, where it is no mistake of the user's."""
    return f"{_what_failed(error)} (OPENSEG_DEBUG=1 shows where)"


def _what_failed(error: Exception) -> str:
    text = str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return "out of memory; use fewer labels or a smaller --max-side"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or text}"
    first = text.strip().splitlines()[0] if text.strip() else "no message"
    if distributed.is_lost(error):
        return f"another process of this job was lost ({first}); start all of them again"
    return f"internal error, {type(error).__name__}: {first}"


def _complain(text: str) -> None:
    # One line whatever a file name or a library's message holds.
    print("openseg:", " ".join(text.split()), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

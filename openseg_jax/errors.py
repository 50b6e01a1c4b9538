"""Errors that a person can act on.

`UserError` is the one exception for mistakes of the person at the keyboard. The command line and
notebooks show its text as a single line; Python callers catch it as a ValueError.
"""

from __future__ import annotations

import dataclasses
import difflib
import numbers
import os
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn


class UserError(ValueError):
    """A mistake in what the user gave: the message names it and says how to mend it."""

    def _render_traceback_(self) -> list[str]:
        """Returns what IPython and notebooks show in the place of a traceback."""
        if debugging():
            raise NotImplementedError  # IPython then shows its own
        return [f"openseg: {' '.join(str(self).split())}"]


def debugging() -> bool:
    """Whether `OPENSEG_DEBUG` asks for tracebacks."""
    return os.environ.get("OPENSEG_DEBUG", "") not in ("", "0")


def expected(name: str, want: str, got: str, fix: str) -> UserError:
    """Builds the standard message: argument, what was expected, what came, and the fix."""
    return UserError(f"{name}: expected {want}, got {got}; {fix}")


def describe(x: Any) -> str:
    """Names a value's type the way our annotations do, e.g. `uint8[480 640 3]`."""
    shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
    if shape is None or dtype is None:
        return type(x).__name__
    return f"{dtype}[{' '.join(str(n) for n in shape)}]"


def check_shape(x: Any, dims: str, name: str, *, dtype: str | None = None, fix: str = "") -> None:
    """Raises `UserError` unless `x` has the shape that `dims` spells.

    Args:
        x: any array.
        dims: blank-separated sizes and letters, e.g. `"B H W 3"`. Letters match any size.
        name: the argument's name, for the message.
        dtype: required dtype name, e.g. `"uint8"`; None accepts all.
        fix: what to do about it.
    """
    want = dims.split()
    shape = getattr(x, "shape", None)
    wrong = shape is None or len(shape) != len(want)
    if shape is not None and not wrong:
        wrong = any(d.isdigit() and int(d) != n for d, n in zip(want, shape, strict=True))
    if not wrong and dtype is not None:
        wrong = str(x.dtype) != dtype
    if wrong:
        raise expected(
            name, f"{dtype or 'array'}[{dims}]", describe(x), fix or f"reshape it to [{dims}]"
        )


# By the words of an annotation: what a value must be, and how a person calls it.
_PLAIN = {
    "bool": ((bool,), "True or False"),
    "int": ((numbers.Integral,), "a whole number"),
    "float": ((numbers.Real,), "a number"),
    "str": ((str,), "a name"),
    "None": ((type(None),), "None"),
}


def check_types(config: Any) -> None:
    """Raises `UserError` where a field of a dataclass is of another type than it says.

    Text from a command line ("abc", "false") would otherwise fail in a comparison, or count as
    true. Judges fields of bool, int, float, str, `tuple[str, ...]` and their unions with None.

    Args:
        config: a dataclass instance of a module with postponed annotations.
    """
    for field in dataclasses.fields(config):
        value, words = getattr(config, field.name), str(field.type).split(" | ")
        if "tuple[str, ...]" in words:
            alone = isinstance(value, str | Iterator)
            each = isinstance(value, Iterable) and not isinstance(value, Iterator)
            if alone or (each and all(isinstance(text, str) for text in value)):
                continue
            raise expected(field.name, "texts", repr(value), "try ('a', 'b')")
        if not all(word in _PLAIN for word in words):
            continue
        kinds = tuple(kind for word in words for kind in _PLAIN[word][0])
        # Python counts True as a whole number; nobody who writes it means 1.
        known = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        if not known:
            want = " or ".join(_PLAIN[word][1] for word in words)
            raise expected(field.name, want, repr(value), "correct it")


def unknown_name(name: str, choices: Iterable[str], what: str) -> NoReturn:
    """Raises `UserError` for a name that is not among `choices`, with the closest one.

    Args:
        name: what the user wrote.
        choices: the known names.
        what: the kind of thing, e.g. `"method"`.
    """
    known = sorted(choices)
    lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), list(lower), n=1, cutoff=0.4)
    hint = f"did you mean {lower[near[0]]!r}? " if near else ""
    raise UserError(f"{what}: unknown name {name!r}; {hint}known: {', '.join(known) or 'none'}")

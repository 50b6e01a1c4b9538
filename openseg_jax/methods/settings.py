"""What the settings of all methods share: checks of their fields, names, parity and presets."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from openseg_jax.errors import UserError, expected, unknown_name

__all__ = ["as_pairs", "as_tuples", "check_templates", "from_names", "preset"]

Config = TypeVar("Config")


def from_names(
    config: type[Config], settings: Mapping[str, Any], parity: str | None, published: Mapping
) -> Config:
    """Builds a method's settings from names and values.

    Args:
        config: the dataclass.
        settings: its fields; they win over `published`.
        parity: "reference" for the published behaviour, or None.
        published: what `parity="reference"` sets.

    Raises:
        UserError: for an unknown name (with the closest one) or a value out of range.
    """
    if parity not in (None, "reference"):
        unknown_name(str(parity), ["reference"], "parity")
    fields: Any = config
    known = {field.name for field in dataclasses.fields(fields)}
    for name in settings:
        if name not in known:
            unknown_name(name, known, "setting")
    return config(**{**(published if parity else {}), **settings})


def preset(method: str, name: str) -> dict[str, Any]:
    """Returns the published settings of a benchmark from configs/METHOD.py.

    Raises:
        UserError: for an unknown name, with the closest one.
    """
    module = importlib.import_module(f"openseg_jax.configs.{method}")
    if name not in module.NAMES:
        unknown_name(name, module.NAMES, "preset")
    return module.get_config(name).to_dict()


def as_tuples(config: Any, *names: str) -> None:
    """Makes tuples of the texts in fields of a frozen dataclass; a lone text is one of one."""
    for name in names:
        value = getattr(config, name)
        object.__setattr__(config, name, (value,) if isinstance(value, str) else tuple(value))


def as_pairs(config: Any, name: str) -> None:
    """Makes pairs of the settings in a field of a frozen dataclass, which may come as a dict."""
    pairs = getattr(config, name)
    try:
        pairs = pairs.items() if isinstance(pairs, Mapping) else pairs
        object.__setattr__(config, name, tuple((str(key), value) for key, value in pairs))
    except (TypeError, ValueError):
        raise expected(name, "settings by name", repr(pairs), "try {'name': value}") from None


def check_templates(templates: Sequence[str]) -> None:
    """Raises `UserError` unless there are templates, each with one place for a name."""
    if not templates:
        raise expected("templates", "at least one", "none", "try 'a photo of a {}.'")
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(
                f"templates: expected one {{}} for a name in {template!r}; write it once"
            )

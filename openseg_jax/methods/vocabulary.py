"""What all methods ask of a list of names, and how embeddings become unit rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from openseg_jax.errors import UserError, expected
from openseg_jax.types import Float

__all__ = ["checked_names", "rivals_of", "synonyms_of", "unit_rows"]


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of a vocabulary.

    Raises:
        UserError: for a bare text, no names, an empty one or duplicates.
    """
    if isinstance(names, str):
        raise expected("names", "a list of texts", repr(names), f"write [{names!r}]")
    names = tuple(names)
    if not names:
        raise expected("names", "at least one text", "none", "name what to look for")
    if any(not name.strip() for name in names):
        raise expected("names", "words", "an empty text", "leave it out")
    double = {name for name in names if names.count(name) > 1}
    if double:
        raise UserError(f"names: {sorted(double)[0]!r} is given twice; name every class once")
    return names


def rivals_of(
    names: Sequence[str], given: Sequence[str] | None, own: Sequence[str]
) -> tuple[str, ...]:
    """Returns background texts, each once and without those that are names.

    Args:
        names: the vocabulary. given: what the caller asked for; None takes `own`.
        own: what the method is configured with.
    """
    return tuple(dict.fromkeys(r for r in (own if given is None else given) if r not in names))


def synonyms_of(name: str) -> tuple[str, ...]:
    """Splits "person, man, woman" into its texts; a name of nothing but commas is one text."""
    parts = tuple(dict.fromkeys(part.strip() for part in name.split(",") if part.strip()))
    return parts or (name.strip(),)


def unit_rows(x: Float[np.ndarray, "*B E"]) -> Float[np.ndarray, "*B E"]:
    """Scales the last axis to unit length, in float32; zeros stay zeros."""
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)

"""WiSE-FT: weights between those before a fine-tuning and those after it.

Fine-tuned weights are better where they were tuned and worse elsewhere; on the straight line from
the old weights to them lie ones that keep much of both.

Source: Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

import openseg_jax
from openseg_jax.errors import UserError, expected
from openseg_jax.text.tokenizer import Tokenizer
from openseg_jax.types import Params
from openseg_jax.weights.loaded import LoadedClip
from openseg_jax.weights.tree import flatten, unflatten


def interpolate(before: LoadedClip, after: LoadedClip, alpha: float) -> LoadedClip:
    """Computes (1 − α)·before + α·after, leaf by leaf in float32.

    What methods keep beside the CLIP ("maft", "segclip") fits the CLIP that it was trained beside.
    Where both sides have a method it is interpolated too; where one side has it, it is kept if
    the result has that side's CLIP (α at that end, or a CLIP that training left alone, as MAFT
    does) and left out if not. The provenance says which. Settings ("defaults") are those chosen
    for `after`, and `before`'s where it has none.

    Args:
        before: weights before the fine-tuning, 0 on the line.
        after: after it, 1 on the line.
        alpha: place on the line, in [0, 1]. The ends give each side's weights, bit for bit.

    Raises:
        UserError: for another `alpha`, or naming the first difference between architectures,
            preparation of pictures, tokenizers, arrays or settings of a method.
    """
    if not 0.0 <= alpha <= 1.0:
        raise expected("alpha", "a number in [0, 1]", f"{alpha:g}", "0 is before, 1 is after")
    check_alike(before, after)
    params = _mix(before.params, after.params, alpha)
    same = _equal(before.params, after.params)
    extras, settings, said = {}, {}, []
    for name in sorted({*before.extras, *after.extras}):
        if name in before.extras and name in after.extras:
            extras[name] = _mix(before.extras[name], after.extras[name], alpha)
            settings[name] = dict(after.extras_config.get(name, {}))
            said.append(f"{name}: interpolated")
            continue
        side, end, word = (
            (before, 0.0, "before") if name in before.extras else (after, 1.0, "after")
        )
        if same or alpha == end:
            extras[name] = side.extras[name]
            settings[name] = dict(side.extras_config.get(name, {}))
            said.append(f"{name}: of {word}, unchanged")
        else:
            said.append(f"{name}: left out, for {word} alone has it and its CLIP is another")
    return dataclasses.replace(
        after,
        params=params,
        provenance=_provenance(before, after, alpha, said),
        defaults={**before.defaults, **after.defaults},
        extras=extras,
        extras_config=settings,
    )


def _provenance(
    before: LoadedClip, after: LoadedClip, alpha: float, said: list[str]
) -> dict[str, str]:
    old, new = before.provenance, after.provenance
    found = {
        "name": f"{old['name']} to {new['name']}, alpha {alpha:g}",
        "source": f"openseg_jax {openseg_jax.__version__}, openseg interpolate --alpha {alpha:g}",
        "licence": _both(old["licence"], new["licence"]),
        "saw": _both(old["saw"], new["saw"]),
        "interpolated": f"{1 - alpha:g} · before + {alpha:g} · after, in float32",
        "before": f"{old['name']} ({old['source']}), hash {before.fingerprint}",
        "after": f"{new['name']} ({new['source']}), hash {after.fingerprint}",
    }
    return {**found, "methods": "; ".join(said)} if said else found


def _both(old: str, new: str) -> str:
    # A fine-tuning's folder tells what its start saw too.
    return new if old in new else f"before: {old}; after: {new}"


def check_alike(before: LoadedClip, after: LoadedClip) -> None:
    """Raises `UserError` naming the first difference that forbids a mean of two weights."""
    _same_values("architecture", _plain(before), _plain(after))
    _same_values("preparation", before.preprocess.to_dict(), after.preprocess.to_dict())
    _same_values("tokenizer", before.tokenizer.to_dict(), after.tokenizer.to_dict())
    if _vocabulary(before.tokenizer) != _vocabulary(after.tokenizer):
        raise _differ("tokenizer vocabulary", "one spelling", "another")
    _same_arrays("", before.params, after.params)
    for name in sorted(set(before.extras) & set(after.extras)):
        old, new = before.extras_config.get(name, {}), after.extras_config.get(name, {})
        _same_values(name, old, new)
        _same_arrays(f"{name}: ", before.extras[name], after.extras[name])


def _plain(loaded: LoadedClip) -> dict[str, Any]:
    # The name is for people and decides nothing.
    return {k: v for k, v in loaded.config.to_dict().items() if k != "name"}


def _vocabulary(tokenizer: Tokenizer) -> Any:
    pipeline, model = getattr(tokenizer, "pipeline", None), getattr(tokenizer, "model", None)
    return model if pipeline is None else pipeline.to_str()


def _differ(what: str, old: Any, new: Any) -> UserError:
    return expected(
        f"before and after: {what}", "the same in both", f"{old} before and {new} after",
        "interpolate a model with its own fine-tuning",
    )  # fmt: skip


def _same_values(what: str, old: Any, new: Any) -> None:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            _same_values(f"{what}.{key}", old.get(key, "none"), new.get(key, "none"))
    elif _listed(old) != _listed(new):
        raise _differ(what, f"{old!r:.60}", f"{new!r:.60}")


def _listed(value: Any) -> Any:
    # JSON has no tuples.
    return list(value) if isinstance(value, tuple) else value


def _same_arrays(what: str, old: Params, new: Params) -> None:
    left, right = flatten(old), flatten(new)
    for name in sorted({*left, *right}):
        if name not in left or name not in right:
            raise _differ(
                f"{what}{name}", *("here" if name in x else "none" for x in (left, right))
            )
        if left[name].shape != right[name].shape:
            raise _differ(f"{what}{name}", list(left[name].shape), list(right[name].shape))


def _equal(old: Params, new: Params) -> bool:
    right = flatten(new)
    return all(np.array_equal(leaf, right[name]) for name, leaf in flatten(old).items())


def _mix(old: Params, new: Params, alpha: float) -> dict[str, Any]:
    right = flatten(new)
    return unflatten({
        name: _line(name, np.asarray(leaf), np.asarray(right[name]), alpha)
        for name, leaf in flatten(old).items()
    })  # fmt: skip


def _line(name: str, old: np.ndarray, new: np.ndarray, alpha: float) -> np.ndarray:
    if alpha in (0.0, 1.0):
        return new if alpha else old
    if old.dtype.kind in "iub" or new.dtype.kind in "iub":
        if not np.array_equal(old, new):
            raise _differ(f"{name}, which are whole numbers", "some", "others")
        return new
    share = np.float32(alpha)
    left, right = old.astype(np.float32, copy=False), new.astype(np.float32, copy=False)
    return (np.float32(1.0) - share) * left + share * right

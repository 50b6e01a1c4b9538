"""Optimisers whose settings are regular expressions over parameter names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import optax
from absl import logging

from openseg_jax.errors import UserError, unknown_name
from openseg_jax.tasks.base import Rules

Schedule = Callable[[Any], Any]
SCHEDULES = ("cosine", "cosine_from_one", "constant", "linear", "poly")


def match_rules(rules: Rules, names: Iterable[str], what: str) -> dict[str, Any]:
    """Finds each name's value: that of the first rule which matches the whole name.

    Args:
        rules: (regular expression, value) pairs.
        names: parameter names "a/b/c".
        what: the setting's name, for messages.

    Raises:
        UserError: when names match no rule, or an expression is broken.
    """
    try:
        compiled = [(re.compile(pattern), value) for pattern, value in rules]
    except re.error as error:
        raise UserError(
            f"{what}: expected regular expressions, got {error.pattern!r} ({error}); correct it"
        ) from error
    values: dict[str, Any] = {}
    used: set[int] = set()
    lost = []
    for name in names:
        for index, (pattern, value) in enumerate(compiled):
            if pattern.fullmatch(name):
                values[name] = value
                used.add(index)
                break
        else:
            lost.append(name)
    if lost:
        shown = ", ".join(lost[:8]) + (f" and {len(lost) - 8} more" if len(lost) > 8 else "")
        raise UserError(
            f"{what}: expected a rule for every parameter, got none for {shown}; "
            "add a rule, or a last one for '.*'"
        )
    for index, (pattern, _) in enumerate(rules):
        if index not in used and pattern != ".*":
            logging.warning("%s: the rule %r decides no parameter", what, pattern)
    return values


def trainable_names(rules: Rules, names: Iterable[str]) -> frozenset[str]:
    """Lists the names whose first matching rule says True."""
    chosen = frozenset(name for name, on in match_rules(rules, names, "trainable").items() if on)
    if not chosen:
        raise UserError("trainable: expected rules that train something, got none; correct them")
    return chosen


def make_schedule(
    kind: str,
    *,
    peak: float,
    steps: int,
    warmup: int = 0,
    start: float = 0.0,
    end: float = 0.0,
    power: float = 0.9,
) -> Schedule:
    """Builds the learning rate as a function of the step.

    Args:
        kind: one of `SCHEDULES`. "cosine_from_one" counts steps from 1, so that the first update
            has a rate and the last has none (SegCLIP; the others have it the other way round).
        peak: the rate after warm-up.
        steps: of the whole training.
        warmup: steps of linear rise.
        start: share of the peak that the rise begins with.
        end: the last step's share of the peak; "constant" has none.
        power: of "poly", which is end + (1 − end)·(1 − i/steps)^power of the peak.
    """
    if kind not in SCHEDULES:
        unknown_name(kind, SCHEDULES, "schedule")
    if not 0 <= warmup < max(steps, 1):
        raise UserError(
            f"optim.warmup: expected 0 to {steps - 1} steps, got {warmup}; "
            "it must be shorter than the training"
        )
    rest = max(steps - warmup, 1)
    if kind == "cosine_from_one":
        return _cosine_from_one(peak, warmup, rest, start, end)
    if kind == "cosine":
        after = optax.cosine_decay_schedule(peak, rest, alpha=end)
    elif kind == "linear":
        after = optax.linear_schedule(peak, end * peak, rest)
    elif kind == "poly":
        after = optax.polynomial_schedule(peak, end * peak, power, rest)
    else:
        after = optax.constant_schedule(peak)
    if not warmup:
        return after
    return optax.join_schedules(
        [optax.linear_schedule(start * peak, peak, warmup), after], [warmup]
    )


def _cosine_from_one(peak: float, warmup: int, rest: int, start: float, end: float) -> Schedule:
    def rate(count: Any) -> Any:
        step = count + 1.0
        left = jnp.clip((step - warmup) / rest, 0.0, 1.0)
        down = end + (1.0 - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * left))
        up = start + (1.0 - start) * step / max(warmup, 1)
        return peak * jnp.where(step < warmup, up, down)

    return rate


def make_adamw(
    names: Iterable[str],
    schedule: Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.98,
    eps: float = 1e-8,
    clip: float | None = 1.0,
    weight_decay: Rules = ((".*", 0.0),),
    multiplier: Rules = ((".*", 1.0),),
    layers: Mapping[str, Any] | None = None,
) -> optax.GradientTransformation:
    """Builds AdamW over a flat dict of trained parameters.

    Args:
        names: of the trained parameters.
        schedule: learning rate by step.
        b1, b2, eps: Adam's.
        clip: bound on the gradients' global norm; None for no bound.
        weight_decay: rules for the decoupled decay of each parameter.
        multiplier: rules for each parameter's share of the learning rate.
        layers: a further share by name, from `layer_rates`; None for 1 everywhere.
    """
    names = sorted(names)
    decay = match_rules(weight_decay, names, "optim.weight_decay")
    share = match_rules(multiplier, names, "optim.multiplier")
    if layers is not None:
        share = {name: share[name] * layers[name] for name in names}

    def decay_and_share(updates: Any, params: Any) -> Any:
        assert params is not None
        return {n: share[n] * (u + decay[n] * params[n]) for n, u in updates.items()}

    parts = [] if clip is None else [optax.clip_by_global_norm(clip)]
    parts += [
        optax.scale_by_adam(b1, b2, eps),
        optax.stateless(decay_and_share),
        optax.scale_by_learning_rate(schedule),
    ]
    return optax.chain(*parts)

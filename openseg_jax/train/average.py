"""A moving average of what is trained: steadier weights than those of the last step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from openseg_jax.errors import expected
from openseg_jax.train.state import TrainState, flat_names, nested
from openseg_jax.types import Array, Int, Params

Average = dict[str, Any]


def check_decay(decay: float) -> float:
    """Returns the decay, or raises UserError unless it is in [0, 1); 0 is no average."""
    if not 0.0 <= decay < 1.0:
        raise expected(
            "average.decay", "a number in [0, 1)", repr(decay), "try 0.999; 0.0 keeps no average"
        )
    return decay


def start_average(learning: Average) -> Average:
    """Returns the average before the first update: the trained parameters in float32."""
    # Copied: a state that is given away must not hold the same buffer twice.
    return jax.tree.map(lambda p: jnp.copy(p.astype(jnp.float32)), learning)


def follow(average: Average, learning: Average, step: Int[Array, ""], decay: float) -> Average:
    """Moves the average towards the parameters: d·average + (1 − d)·parameters, in float32.

    d = min(decay, (1 + step) / (10 + step)): a short memory at first, so that the start of a
    training is forgotten. Source: `num_updates` of TensorFlow's `ExponentialMovingAverage`, as
    timm's and Keras's averages have it too; Adam's way of undoing the start (`optax.ema`) would
    not do for one that starts from weights instead of zeros.

    Args:
        average: flat, float32.
        learning: the trained parameters after the update.
        step: updates done before this one.
        decay: in (0, 1).
    """
    done = step.astype(jnp.float32)
    kept = jnp.minimum(jnp.float32(decay), (1.0 + done) / (10.0 + done))
    return jax.tree.map(lambda a, p: a + (1.0 - kept) * (p - a), average, learning)


def averaged_params(state: TrainState) -> Params:
    """Returns a state's parameters with averages in place of the trained ones, where there are."""
    if state.average is None:
        return state.params
    return nested({**flat_names(state.params), **state.average})

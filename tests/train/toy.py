"""A task small enough to check by hand: least squares, a mean over examples."""

from __future__ import annotations

import jax.numpy as jnp


class Line:
    """Fits y = x·w + b; `nan_at` poisons the loss of batches whose first x exceeds it."""

    def __init__(self, trainable=((".*", True),), nan_at=None):
        self.trainable, self.nan_at = trainable, nan_at

    def init(self, key, batch):
        return {"line": {"w": jnp.zeros(3), "b": jnp.zeros(())}, "idle": jnp.ones(2)}, {}

    def loss(self, params, frozen, batch, *, key):
        error = batch["x"] @ params["line"]["w"] + params["line"]["b"] - batch["y"]
        value = jnp.square(error).mean() + 0.0 * params["idle"].sum()
        if self.nan_at is not None:
            value = jnp.where(batch["x"][0, 0] > self.nan_at, jnp.nan, value)
        return value, {"error": (jnp.abs(error).sum(), jnp.float32(len(error)))}

    def constrain(self, params):
        return {**params, "line": {**params["line"], "b": jnp.minimum(params["line"]["b"], 0.5)}}

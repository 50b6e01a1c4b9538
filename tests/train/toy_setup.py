"""An experiment that trains in no time: the toy's task with as many parameters as one likes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from tests.train.toy import Line


class Numbers:
    """Example i is drawn from i."""

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        x = np.random.default_rng(index).normal(size=3).astype(np.float32)
        return {"x": x, "y": np.float32(x @ np.float32([1, -2, 3]) + 2)}


class Ballast(Line):
    """The line, and megabytes that are written with every checkpoint."""

    def init(self, key, batch):
        params, frozen = super().init(key, batch)
        return {**params, **{f"ballast{i}": jnp.ones((256, 1024)) for i in range(8)}}, frozen

    def loss(self, params, frozen, batch, *, key):
        value, metrics = super().loss(params, frozen, batch, key=key)
        ballast = sum(jnp.square(params[f"ballast{i}"]).mean() for i in range(8))
        return value + 1e-3 * ballast, metrics


class Toy:
    """See `train.setup.Setup`."""

    saw = "numbers"

    def __init__(self, task):
        self.task, self.source = task, Numbers()

    def save(self, folder, params, provenance, defaults, dtype):
        """Nobody asks for it."""


def build(config, mesh=None):
    return Toy(Ballast())

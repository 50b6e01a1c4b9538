"""From a training state to a model folder that every command loads."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax

import openseg_jax
from openseg_jax.train import setup
from openseg_jax.train.average import averaged_params
from openseg_jax.train.sharding import to_host
from openseg_jax.train.state import Config, TrainState


def export_state(
    config: Config,
    folder: str | os.PathLike[str],
    state: TrainState,
    *,
    defaults: Mapping[str, Any] | None = None,
    dtype: str = "float16",
) -> None:
    """Writes a state's parameters, averaged ones where it keeps an average, as a model folder.

    Every process must call it; the first one writes.

    Args:
        config: the training's.
        folder: replaced as a whole.
        state: of the training, finished or not.
        defaults: settings chosen for these weights, beside the labels that they know.
        dtype: of storage.
    """
    built = setup.build(config)
    step = int(state.step)
    seen = step * config.batch_size
    mean = config.average.decay if state.average is not None else 0.0
    weights = f"moving average (decay {mean:g}) of the trained parameters; see train/average.py"
    provenance = {
        "name": config.name,
        "source": f"openseg_jax {openseg_jax.__version__}, openseg train --config {config.name}",
        "licence": "Apache-2.0",
        "saw": f"{seen:,} {built.saw}, and nothing else"
        + ("" if step >= config.steps else f"; provisional: step {step} of {config.steps}"),
        **({"weights": weights} if mean else {}),
    }
    params = to_host(averaged_params(state))
    if jax.process_index() == 0:
        built.save(folder, params, provenance, defaults or {}, dtype)


def exporter(config: Config, folder: str | os.PathLike[str]) -> Callable[[int, TrainState], None]:
    """Makes a hook that exports at every checkpoint."""

    def hook(step: int, state: TrainState) -> None:
        del step
        export_state(config, folder, state)

    return hook

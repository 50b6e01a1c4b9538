"""The batch whose loss or gradients were not finite: kept as a file, and tried again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from openseg_jax.errors import UserError
from openseg_jax.files import atomic_write
from openseg_jax.inputs.pipeline import Batches
from openseg_jax.types import Int, Key


class TrainingDiverged(UserError):
    """The loss or a gradient was not finite."""

    outcome = "diverged"  # in the training's summary


def keep_bad_batch(
    workdir: Path, step: int, data: Batches, rows: Int[np.ndarray, "n"], key: Key
) -> Path:
    """Writes this process's rows of a batch as `bad_batch_STEP.npz`.

    Args:
        workdir: the training's folder.
        step: whose update was withheld.
        data: stands before that step; stands there again afterwards.
        rows: which rows of the batch this process loads.
        key: the training's, from which the step derives its own.

    Returns:
        The file. Its arrays are those of the batch, under "batch/NAME", with `rows`, `step` and
        `key`, the key's data.
    """
    several = jax.process_count() > 1
    of = f"_process_{jax.process_index()}_of_{jax.process_count()}" if several else ""
    path = workdir / f"bad_batch_{step}{of}.npz"
    position = data.get_state()
    batch = {f"batch/{name}": value for name, value in next(data).items()}
    data.set_state(position)
    facts: dict[str, Any] = {"step": step, "rows": rows, "key": jax.random.key_data(key)}
    with atomic_write(path) as aside, aside.open("wb") as file:
        np.savez(file, **batch, **facts)
    return path

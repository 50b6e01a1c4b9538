"""The batch whose loss or gradients were not finite: kept as a file, and tried again."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.errors import UserError, expected
from openseg_jax.files import atomic_write
from openseg_jax.inputs.pairs import SKIPPED
from openseg_jax.inputs.pipeline import Batches, batch_spec
from openseg_jax.train import setup
from openseg_jax.train.checkpoint import Checkpoints
from openseg_jax.train.optim import trainable_names
from openseg_jax.train.sharding import make_mesh, put_batch
from openseg_jax.train.state import Config, flat_names, nested, split_params
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


@dataclasses.dataclass(frozen=True)
class Replayed:
    """What a kept batch does to the parameters that it met.

    Attributes:
        step: whose update was withheld.
        metrics: mean of each of the task's, with "loss".
        gradients: norm of each trained parameter's gradient, by name.
        unsound: names of arrays of the batch, and of parameters, that hold NaN or infinity.
    """

    step: int
    metrics: dict[str, float]
    gradients: dict[str, float]
    unsound: tuple[str, ...]


def replay(
    config: Config,
    workdir: Path,
    step: int,
    checkpoints: str | os.PathLike[str] | None = None,
) -> Replayed:
    """Computes loss and gradients of a kept batch once more, on the devices of this process.

    Args:
        config: the training's.
        workdir: the training's, with `bad_batch_STEP*.npz` of all its processes.
        step: in those names.
        checkpoints: as for `train`; the one before `step` must still be there.

    Raises:
        UserError: where the batch is not there, or not whole.
    """
    batch, key = _read(workdir, step, config.batch_size)
    mesh = make_mesh()
    built = setup.build(config, mesh)
    opened = Checkpoints(checkpoints or workdir / "checkpoints", config.keep)
    with opened:
        if step - 1 not in opened.steps():
            raise expected(
                "--replay", f"a checkpoint of step {step - 1}",
                f"those of {', '.join(map(str, opened.steps())) or 'none'}",
                "copy it there",
            )  # fmt: skip
        params = jax.tree.map(jnp.asarray, opened.restore_host(step - 1)["params"])
    _, frozen = built.task.init(key, batch_spec(built.source, config.batch_size))
    trained = trainable_names(built.task.trainable, flat_names(params))
    learning, fixed = split_params(params, trained)

    def loss(learning: dict[str, Any], rows: Any) -> Any:
        whole = nested({**learning, **fixed})
        return built.task.loss(whole, frozen, rows, key=jax.random.fold_in(key, step - 1))

    rows = put_batch({name: x for name, x in batch.items() if name != SKIPPED}, mesh)
    (value, metrics), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(learning, rows)
    means = {name: float(total / count) for name, (total, count) in metrics.items()}
    arrays = {**batch, **flat_names(params)}
    return Replayed(
        step=step,
        metrics={"loss": float(value), **means},
        gradients={name: float(jnp.linalg.norm(g)) for name, g in sorted(grads.items())},
        unsound=tuple(name for name, x in arrays.items() if not np.isfinite(x).all()),
    )


def _read(workdir: Path, step: int, batch_size: int) -> tuple[dict[str, Any], Key]:
    """Puts the rows that the processes kept in their order."""
    files = [
        np.load(path, allow_pickle=False)
        for pattern in (f"bad_batch_{step}.npz", f"bad_batch_{step}_process_*.npz")
        for path in sorted(workdir.glob(pattern))
    ]
    rows = np.concatenate([file["rows"] for file in files]) if files else np.zeros(0, np.int64)
    which = np.unique(rows, return_index=True)[1]
    if len(which) != batch_size:
        raise expected(
            "--replay", f"{batch_size} rows in {workdir}/bad_batch_{step}*.npz", f"{len(which)}",
            "give a step in a file's name, and bring the files of all processes together",
        )  # fmt: skip
    names = [name for name in files[0].files if name.startswith("batch/")]
    batch = {
        name.removeprefix("batch/"): np.concatenate([file[name] for file in files])[which]
        for name in names
    }
    return batch, jax.random.wrap_key_data(files[0]["key"])

"""The one training loop: CLIP, MAFT, SegCLIP and the miniature differ in task and inputs alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import logging

from openseg_jax.errors import UserError
from openseg_jax.inputs.pairs import SKIPPED
from openseg_jax.inputs.pipeline import batch_spec, batches
from openseg_jax.train import setup
from openseg_jax.train.checkpoint import Checkpoints
from openseg_jax.train.program import make_program
from openseg_jax.train.recorder import Recorder
from openseg_jax.train.sharding import make_mesh, put_batch
from openseg_jax.train.state import Config, TrainState, flat_names, nested
from openseg_jax.train.step import count_params

OnCheckpoint = Callable[[int, TrainState], None]


class TrainingDiverged(UserError):
    """The loss or a gradient was not finite."""


def train(
    config: Config,
    workdir: str | os.PathLike[str],
    *,
    on_checkpoint: OnCheckpoint | None = None,
    show: bool = True,
) -> TrainState:
    """Trains to `config.steps`, from the newest checkpoint in `workdir` or from the start.

    Args:
        config: as `configs/base.py` lists it.
        workdir: receives `checkpoints/`, `metrics.jsonl` and `config.json`.
        on_checkpoint: called with step and state whenever a checkpoint is saved.
        show: the progress bar.

    Returns:
        The final state, on the devices.

    Raises:
        TrainingDiverged: when loss or gradients are not finite; the state before is saved.
        UserError: for a configuration that cannot work.
    """
    workdir = Path(workdir)
    mesh = make_mesh(**config.mesh)
    built = setup.build(config, mesh)
    workdir.mkdir(parents=True, exist_ok=True)
    data = batches(
        built.source,
        config.batch_size,
        seed=config.seed,
        shuffle=config.input.shuffle,
        shard=jax.process_index(),
        shards=jax.process_count(),
        threads=config.input.threads,
        workers=config.input.workers,
        prefetch=config.input.prefetch,
    )
    root = jax.random.key(config.seed)
    params, frozen = built.task.init(
        jax.random.fold_in(root, 0), batch_spec(built.source, config.batch_size)
    )
    params = nested(flat_names(params))
    program = make_program(config, built.task, mesh, params)
    logging.info(
        "%d parameters, %d of them trained; mesh %s; attention %s",
        count_params(params),
        sum(x.size for n, x in flat_names(params).items() if n in program.trained),
        dict(mesh.shape),
        config.attention,
    )
    checkpoints = Checkpoints(workdir / "checkpoints", config.keep)
    plain = config.to_dict()
    start = checkpoints.latest()
    if start is None:
        state, start = program.start(params), 0
    else:
        state = checkpoints.restore(start, program.like, data, plain)
        logging.info("resumed at step %d", start)
    frozen = jax.device_put(frozen, program.everywhere)
    key = jax.device_put(jax.random.fold_in(root, 1), program.everywhere)

    # Broken pictures and empty captions that this process met in this run.
    skipped = np.zeros(2, np.int64)

    def save(step: int, state: TrainState) -> None:
        checkpoints.save(step, state, data, plain)
        if skipped.any():
            logging.warning("skipped so far: %d broken pictures, %d empty captions", *skipped)
        if on_checkpoint is not None:
            on_checkpoint(step, state)

    recorder = Recorder(
        workdir,
        steps=config.steps,
        done=start,
        examples=config.batch_size,
        rate=program.schedule,
        show=show,
    )
    try:
        with recorder:
            for step in range(start + 1, config.steps + 1):
                batch = next(data)
                told = batch.pop(SKIPPED, None)
                if told is not None:
                    skipped += told.sum(axis=0)
                state, metrics = program.step(state, frozen, put_batch(batch, mesh), key)
                recorder.add(step, metrics)
                last = step == config.steps
                due = last or step % config.checkpoint_every == 0 or checkpoints.preempted(step)
                if not (due or step % config.log_every == 0 or step == start + 1):
                    continue
                lost = {} if told is None else {"skipped": float(skipped.sum())}
                means = recorder.record(step, **lost)
                if means["finite"] < 1.0:
                    save(int(state.step), state)
                    raise TrainingDiverged(
                        f"loss: expected finite numbers, got {means['loss']} with gradient norm "
                        f"{means['grad_norm']} by step {step}; lower optim.learning_rate or "
                        "raise optim.warmup (the last sound state is saved)"
                    )
                if due:
                    save(step, state)
                    recorder.restart_clock()
    finally:
        checkpoints.close()
    return state

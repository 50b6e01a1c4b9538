"""The one training loop: CLIP, MAFT, SegCLIP and the miniature differ in task and inputs alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import NamedSharding, PartitionSpec

from openseg_jax.errors import UserError
from openseg_jax.inputs.pairs import SKIPPED
from openseg_jax.inputs.pipeline import batch_spec, batches
from openseg_jax.tasks.base import Metrics
from openseg_jax.train import setup
from openseg_jax.train.checkpoint import Checkpoints
from openseg_jax.train.logging import ProgressBar, make_writers
from openseg_jax.train.optim import make_adamw, make_schedule, trainable_names
from openseg_jax.train.sharding import (
    TRANSFORMER_RULES,
    batch_sharding,
    make_mesh,
    put_batch,
    state_sharding,
)
from openseg_jax.train.state import Config, TrainState, flat_names, nested
from openseg_jax.train.step import count_params, init_state, make_train_step

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
    built = setup.build(config)
    workdir.mkdir(parents=True, exist_ok=True)
    mesh = make_mesh(**config.mesh)
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
    trained = trainable_names(built.task.trainable, flat_names(params))
    schedule = make_schedule(
        config.optim.schedule,
        peak=config.optim.learning_rate,
        steps=config.steps,
        warmup=config.optim.warmup,
        start=config.optim.start,
        end=config.optim.end,
        power=config.optim.power,
    )
    tx = make_adamw(
        trained,
        schedule,
        b1=config.optim.b1,
        b2=config.optim.b2,
        eps=config.optim.eps,
        clip=config.optim.clip,
        weight_decay=config.optim.weight_decay,
        multiplier=config.optim.multiplier,
    )
    shapes = jax.eval_shape(lambda p: init_state(p, tx, trained), params)
    placed = state_sharding(shapes, config.sharding or TRANSFORMER_RULES, mesh)
    everywhere = NamedSharding(mesh, PartitionSpec())
    logging.info(
        "%d parameters, %d of them trained; mesh %s; attention %s",
        count_params(params),
        sum(x.size for n, x in flat_names(params).items() if n in trained),
        dict(mesh.shape),
        config.attention,
    )
    step_fn = jax.jit(
        make_train_step(built.task, tx, trained, accumulate=config.accumulate),
        in_shardings=(placed, everywhere, batch_sharding(mesh), everywhere),
        out_shardings=(placed, everywhere),
        donate_argnums=0,
    )
    checkpoints = Checkpoints(workdir / "checkpoints", config.keep)
    plain = config.to_dict()
    start = checkpoints.latest()
    if start is None:
        begin = jax.jit(lambda p: init_state(p, tx, trained), out_shardings=placed)
        state = begin(params)
        start = 0
    else:
        like = jax.tree.map(
            lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), shapes, placed
        )
        state = checkpoints.restore(start, like, data, plain)
        logging.info("resumed at step %d", start)
    frozen = jax.device_put(frozen, everywhere)
    key = jax.device_put(jax.random.fold_in(root, 1), everywhere)
    writers = make_writers(workdir, first=jax.process_index() == 0)

    # Broken pictures and empty captions that this process met in this run.
    skipped = np.zeros(2, np.int64)

    def save(step: int, state: TrainState) -> None:
        checkpoints.save(step, state, data, plain)
        if skipped.any():
            logging.warning("skipped so far: %d broken pictures, %d empty captions", *skipped)
        if on_checkpoint is not None:
            on_checkpoint(step, state)

    pending: list[Metrics] = []
    clock = time.perf_counter()
    try:
        with ProgressBar(config.steps, start, show=show and jax.process_index() == 0) as bar:
            for step in range(start + 1, config.steps + 1):
                batch = next(data)
                told = batch.pop(SKIPPED, None)
                if told is not None:
                    skipped += told.sum(axis=0)
                state, metrics = step_fn(state, frozen, put_batch(batch, mesh), key)
                pending.append(metrics)
                bar.advance(step)
                last = step == config.steps
                due = last or step % config.checkpoint_every == 0 or checkpoints.preempted(step)
                if not (due or step % config.log_every == 0 or step == start + 1):
                    continue
                means = reduce_metrics(pending)
                now = time.perf_counter()
                means["examples_per_second"] = config.batch_size * len(pending) / (now - clock)
                means["learning_rate"] = float(schedule(step - 1))
                if told is not None:
                    means["skipped"] = float(skipped.sum())
                pending, clock = [], now
                for writer in writers:
                    writer.write_scalars(step, means)
                bar.record(step, means)
                if means.pop("finite") < 1.0:
                    save(int(state.step), state)
                    raise TrainingDiverged(
                        f"loss: expected finite numbers, got {means['loss']} with gradient norm "
                        f"{means['grad_norm']} by step {step}; lower optim.learning_rate or "
                        "raise optim.warmup (the last sound state is saved)"
                    )
                if due:
                    save(step, state)
                    clock = time.perf_counter()
    finally:
        for writer in writers:
            writer.close()
        checkpoints.close()
    return state


def reduce_metrics(pending: list[Metrics]) -> dict[str, float]:
    """Averages (sum, count) pairs of several steps; the only wait for the devices."""
    host: Any = jax.device_get(pending)
    return {
        name: float(np.sum([m[name][0] for m in host]) / np.sum([m[name][1] for m in host]))
        for name in host[0]
    }

"""The one training loop: CLIP, MAFT, SegCLIP and the miniature differ in task and inputs alone."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from openseg_jax.errors import UserError
from openseg_jax.files import atomic_write, locked
from openseg_jax.inputs.pairs import SKIPPED
from openseg_jax.inputs.pipeline import batch_spec, batches
from openseg_jax.train import setup
from openseg_jax.train.bad_batch import TrainingDiverged, keep_bad_batch
from openseg_jax.train.checkpoint import Checkpoints
from openseg_jax.train.logging import check_writer
from openseg_jax.train.look import Look
from openseg_jax.train.profile import Profiler
from openseg_jax.train.program import make_program
from openseg_jax.train.recorder import Recorder
from openseg_jax.train.sharding import make_mesh, put_batch, put_whole, rows_here
from openseg_jax.train.sharding_report import report_sharding
from openseg_jax.train.state import Config, TrainState, flat_names, nested
from openseg_jax.train.step import count_params
from openseg_jax.train.stopping import Stopping, TrainingStopped
from openseg_jax.train.summary import describe_run
from openseg_jax.train.zero_shot import evaluate_state

__all__ = ["TrainingDiverged", "TrainingStopped", "train"]

OnCheckpoint = Callable[[int, TrainState], None]

# Steps that may wait for the devices. Enough to keep them busy; each holds a batch in their
# memory, and all of them are waited for when the machine is about to be taken.
_AHEAD = 2


def train(
    config: Config,
    workdir: str | os.PathLike[str],
    *,
    checkpoints: str | os.PathLike[str] | None = None,
    on_checkpoint: OnCheckpoint | None = None,
    show: bool = True,
) -> TrainState:
    """Trains to `config.steps`, from the newest checkpoint or from the start.

    With several processes (`jax.distributed`), each calls this with the same arguments. They must
    see the same checkpoints; what is computed does not depend on their number.

    Args:
        config: as `configs/base.py` lists it.
        workdir: of this machine; receives `metrics.jsonl`, `summary.md`, `config.json`,
            `sharding.md`, and a file for TensorBoard or pictures.
        checkpoints: folder, or gs:// address, that all processes share; None takes
            `workdir`/checkpoints.
        on_checkpoint: called in every process with step and state whenever a checkpoint is saved.
        show: the progress bar.

    Returns:
        The final state, on the devices.

    Raises:
        TrainingDiverged: when loss or gradients are not finite; the state before is saved, and the
            batch.
        TrainingStopped: after SIGTERM, Ctrl-C or a preemption notice; the state is saved.
        UserError: for a configuration that cannot work.
    """
    text = os.fspath(workdir)
    if "://" in text:
        raise UserError(
            f"--workdir: expected a folder of this machine, got {text}; give one, and "
            f"--checkpoints {text}"
        )
    check_writer(config.watch.writer)
    folder = Path(workdir)
    mesh = make_mesh(**config.mesh)
    built = setup.build(config, mesh)
    folder.mkdir(parents=True, exist_ok=True)
    first = jax.process_index() == 0
    with locked(folder) if first else contextlib.nullcontext():
        run = _Run(config, folder, mesh, built, checkpoints or folder / "checkpoints")
        if first:
            with atomic_write(folder / "config.json") as aside:
                aside.write_text(json.dumps(run.plain, indent=2) + "\n", encoding="utf-8")
        return run.to_the_end(on_checkpoint or (lambda step, state: None), show)


class _Run:
    """What a training holds between its start and its end; `state` is replaced at every step."""

    def __init__(
        self,
        config: Config,
        workdir: Path,
        mesh: jax.sharding.Mesh,
        built: setup.Setup,
        checkpoints: str | os.PathLike[str],
    ) -> None:
        self.config, self.workdir, self.mesh, self.built = config, workdir, mesh, built
        self.plain = config.to_dict()
        self.rows = rows_here(mesh, config.batch_size)
        self.data = batches(
            built.source,
            config.batch_size,
            seed=config.seed,
            shuffle=config.input.shuffle,
            rows=self.rows.tolist(),
            threads=config.input.threads,
            workers=config.input.workers,
            prefetch=config.input.prefetch,
        )
        root = jax.random.key(config.seed)
        params, frozen = built.task.init(
            jax.random.fold_in(root, 0), batch_spec(built.source, config.batch_size)
        )
        params = nested(flat_names(params))
        self.program = program = make_program(config, built.task, mesh, params)
        logging.info(
            "%d parameters, %d of them trained; mesh %s; attention %s",
            count_params(params),
            sum(x.size for n, x in flat_names(params).items() if n in program.trained),
            dict(mesh.shape),
            config.attention,
        )
        report_sharding(program, config.sharding, workdir)
        evaluator = getattr(built, "evaluator", None)
        self.evaluate = evaluator(config, mesh) if evaluator is not None else None
        self.checkpoints = Checkpoints(checkpoints, config.keep)
        start = self.checkpoints.latest()
        if start is None:
            self.start, self.state = 0, program.start(params)
        else:
            self.start = start
            self.state = self.checkpoints.restore(start, program.like, self.data, self.plain)
            logging.info("resumed at step %d", start)
        self.frozen = put_whole(frozen, program.everywhere)
        seed = config.seed
        self.key = jax.jit(
            lambda: jax.random.fold_in(jax.random.key(seed), 1), out_shardings=program.everywhere
        )()
        # Broken pictures and empty captions that all processes met in this run.
        self.skipped: Any = put_whole(np.zeros(2, np.int32), program.everywhere)
        self.count = jax.jit(
            lambda total, told: total + told.sum(axis=0), out_shardings=program.everywhere
        )

    def to_the_end(self, on_checkpoint: OnCheckpoint, show: bool) -> TrainState:
        """Trains until the last step, a signal or a loss that is not finite."""
        config = self.config
        recorder = Recorder(
            self.workdir,
            steps=config.steps,
            done=self.start,
            examples=config.batch_size,
            rate=self.program.schedule,
            show=show,
            facts=describe_run(config, self.program, self.state.params, self.checkpoints.folder),
            writer=config.watch.writer,
        )
        look = Look(
            self.built.task,
            self.program,
            config.watch.images_every,
            getattr(self.built, "tokenizer", None),
        )
        profiler = Profiler(self.workdir, config.watch.profile)
        every = config.evaluate.every if self.evaluate is not None else 0
        running: collections.deque[Any] = collections.deque()
        asked = Stopping(self.checkpoints.preempted)
        loading = contextlib.closing(self.data)
        with recorder, self.checkpoints, profiler, loading, asked as stopping:
            if every and not self.start:
                # What the weights know before they are touched.
                assert self.evaluate is not None
                recorder.scalars(0, evaluate_state(self.evaluate, self.state))
                recorder.restart_clock()
            for step in range(self.start + 1, config.steps + 1):
                recorder.leave_out(profiler.begin(step))
                began = time.perf_counter()
                batch = next(self.data)
                recorder.waited(time.perf_counter() - began)
                with profiler.mark(step):
                    metrics, told = self._update(batch)
                if step == self.start + 1:
                    recorder.cost(self._trace().jaxpr)
                recorder.add(step, metrics)
                running.append(metrics)
                if len(running) > _AHEAD:
                    jax.block_until_ready(running.popleft())
                recorder.leave_out(profiler.end(step, metrics))
                last, stop = step == config.steps, stopping.wanted(step)
                due = last or stop or step % config.checkpoint_every == 0
                judged = every > 0 and (last or step % every == 0)
                logged = step % config.log_every == 0 or step == self.start + 1
                seen = look.due(step)
                if not (due or judged or logged or seen):
                    continue
                means = recorder.record(step, **(self._skipped() if told else {}))
                if means["finite"] < 1.0:
                    raise self._diverged(step, means)
                if judged and not stop:
                    assert self.evaluate is not None
                    recorder.scalars(step, evaluate_state(self.evaluate, self.state))
                if seen:
                    recorder.show(step, *look(self.state.params, self.frozen, self.batch, self.key))
                if due:
                    self._save(step)
                    on_checkpoint(step, self.state)
                if due or judged or seen:
                    recorder.restart_clock()
                if stop and not last:
                    self.checkpoints.wait()
                    raise TrainingStopped(step, config.steps, stopping.number)
        return self.state

    def _update(self, batch: dict[str, Any]) -> tuple[Any, bool]:
        """Does one step; returns its metrics, and whether the batch told of broken examples."""
        rows = put_batch(batch, self.mesh, self.config.batch_size)
        told = rows.pop(SKIPPED, None)
        if told is not None:
            self.skipped = self.count(self.skipped, told)
        self.batch = rows
        self.state, metrics = self.program.step(self.state, self.frozen, rows, self.key)
        return metrics, told is not None

    def _trace(self) -> Any:
        """Returns what was traced for the step that was done; it is not traced again."""
        return self.program.step.trace(self.state, self.frozen, self.batch, self.key)

    def _skipped(self) -> dict[str, float]:
        each = jax.device_get(self.skipped)
        if each.any() and jax.process_index() == 0:
            logging.info("skipped so far: %d broken pictures, %d empty captions", *each)
        return {"skipped": float(each.sum())}

    def _save(self, step: int) -> None:
        self.checkpoints.save(step, self.state, self.data, self.plain)

    def _diverged(self, step: int, means: dict[str, float]) -> TrainingDiverged:
        """Saves the state before the first bad step, and that step's batch."""
        bad = -int(self.state.step)
        done = put_whole(np.int32(bad - 1), self.program.everywhere)
        self.state = dataclasses.replace(self.state, step=done)
        position = self.data.get_state()
        position["examples"] -= (step - bad + 1) * self.config.batch_size
        self.data.set_state(position)
        path = keep_bad_batch(self.workdir, bad, self.data, self.rows, self.key)
        self._save(bad - 1)
        self.checkpoints.wait()
        return TrainingDiverged(
            f"loss: expected finite numbers, got {means['loss']} with gradient norm "
            f"{means['grad_norm']} at step {bad}; lower optim.learning_rate or raise optim.warmup "
            f"(the state before is saved, the batch is {path})"
        )

"""What is compiled for a training: one step, its shapes and placements, nothing allocated.

The loop runs it; `openseg plan` compiles the very same for machines that are not here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from openseg_jax.ops.rows import rows_on
from openseg_jax.tasks.base import Batch, Task
from openseg_jax.train.average import check_decay
from openseg_jax.train.layer_rates import layer_rates
from openseg_jax.train.optim import Schedule, make_adamw, make_schedule, trainable_names
from openseg_jax.train.sharding import (
    BATCH_AXES,
    TRANSFORMER_RULES,
    batch_sharding,
    put_whole,
    state_sharding,
)
from openseg_jax.train.state import Config, TrainState, flat_names
from openseg_jax.train.step import init_state, make_train_step
from openseg_jax.types import Key, Params


@dataclasses.dataclass(frozen=True)
class Program:
    """A training step for a mesh.

    Attributes:
        mesh: the devices, which may be those of a machine that is only described.
        tx: the optimiser over the flat dict of trained parameters.
        schedule: learning rate by step.
        trained: names of the parameters that learn.
        shapes: of the state; leaves are `jax.ShapeDtypeStruct`.
        placed: the state's placements, of the same structure.
        step: (state, frozen, batch, key) -> (state, metrics), jitted; the state is given away.
    """

    mesh: Mesh
    tx: optax.GradientTransformation
    schedule: Schedule
    trained: frozenset[str]
    shapes: TrainState
    placed: TrainState
    step: Any

    @property
    def everywhere(self) -> NamedSharding:
        """The placement of what each device has a copy of."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def like(self) -> TrainState:
        """The shapes with their placements: what is restored to, and compiled for."""
        return jax.tree.map(
            lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p),
            self.shapes,
            self.placed,
        )

    def start(self, params: Params) -> TrainState:
        """Places the state of step 0 on the devices.

        Args:
            params: whole, and the same in every process.
        """
        average = self.shapes.average is not None
        # Through the host: what lies on one process's devices is no argument of all processes'.
        params = put_whole(jax.device_get(params), self.placed.params)
        begin = jax.jit(
            lambda p: init_state(p, self.tx, self.trained, average=average),
            out_shardings=self.placed,
        )
        return begin(params)

    def lower(self, frozen: Params, batch: Batch, key: Key) -> jax.stages.Lowered:
        """Lowers the step; all arguments may be shapes."""
        return self.step.lower(self.like, frozen, batch, key)


def make_program(config: Config, task: Task, mesh: Mesh, params: Params) -> Program:
    """Builds the training step that a config describes.

    Args:
        config: as `configs/base.py` lists it.
        task: brings loss and constraint.
        mesh: from `train.sharding.make_mesh`.
        params: nested, as `task.init` returns them: arrays or shapes.

    Raises:
        UserError: for rules that do not cover the parameters.
    """
    names = flat_names(params)
    trained = trainable_names(task.trainable, names)
    optim = config.optim
    schedule = make_schedule(
        optim.schedule,
        peak=optim.learning_rate,
        steps=config.steps,
        warmup=optim.warmup,
        start=optim.start,
        end=optim.end,
        power=optim.power,
    )
    tx = make_adamw(
        trained,
        schedule,
        b1=optim.b1,
        b2=optim.b2,
        eps=optim.eps,
        clip=optim.clip,
        weight_decay=optim.weight_decay,
        multiplier=optim.multiplier,
        layers=layer_rates(flat_names(params), optim.layer_decay),
    )
    average = check_decay(config.average.decay)
    shapes = jax.eval_shape(lambda p: init_state(p, tx, trained, average=average > 0), params)
    placed = state_sharding(shapes, config.sharding or TRANSFORMER_RULES, mesh)
    everywhere = NamedSharding(mesh, PartitionSpec())
    rows = batch_sharding(mesh)
    update = make_train_step(
        task, tx, trained, accumulate=config.accumulate, average=average, placed=rows
    )

    def step_here(state: TrainState, frozen: Params, batch: Batch, key: Key) -> Any:
        with rows_on(mesh, BATCH_AXES if mesh.shape["fsdp"] > 1 else ()):
            return update(state, frozen, batch, key)

    step = jax.jit(
        step_here,
        in_shardings=(placed, everywhere, rows, everywhere),
        out_shardings=(placed, everywhere),
        donate_argnums=0,
    )
    return Program(mesh, tx, schedule, trained, shapes, placed, step)

"""One update. Nothing here knows the method: the task brings the loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from openseg_jax.tasks.base import Batch, Metrics, Task, TwoStage
from openseg_jax.train.average import follow, start_average
from openseg_jax.train.cached import cached_grads, cut_batch
from openseg_jax.train.state import TrainState, flat_names, nested, split_params
from openseg_jax.types import Array, Key, Params

TrainStep = Callable[[TrainState, Params, Batch, Key], tuple[TrainState, Metrics]]


def init_state(
    params: Params,
    tx: optax.GradientTransformation,
    trained: frozenset[str],
    *,
    average: bool = False,
) -> TrainState:
    """Builds the state of step 0; the optimiser and the average see the trained parameters only."""
    learning, _ = split_params(params, trained)
    mean = start_average(learning) if average else None
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(learning), mean)


def make_train_step(
    task: Task,
    tx: optax.GradientTransformation,
    trained: frozenset[str],
    *,
    accumulate: int = 1,
    average: float = 0.0,
    placed: NamedSharding | None = None,
) -> TrainStep:
    """Builds the update function.

    A loss or gradient that is not finite withholds its update and all later ones: the state stays
    as it was, so that it is sound and can be tried again with the very batch. The metric "finite"
    tells the loop, some steps later, and the step counter says which: it is then the negative of
    that step's number.

    Args:
        task: brings loss and constraint.
        tx: optimiser over the flat dict of trained parameters.
        trained: names of these.
        accumulate: parts that a batch is cut into, where it does not fit at once. The gradients
            are those of the whole batch: for a `TwoStage` task all negatives are kept (see
            `train.cached`), for others the parts' gradients are averaged, which is the same
            where the loss is a mean over examples.
        average: decay of the moving average, where the state keeps one; see `train.average`.
        placed: where the rows of a batch lie; None leaves those of parts to the compiler.

    Returns:
        (state, frozen, batch, key) -> (state, metrics). Pure; the caller jits it.
    """

    def grads_of(learning: dict, fixed: dict, frozen: Params, batch: Batch, key: Key):
        def loss(learning: dict) -> tuple[Array, Metrics]:
            return task.loss(nested({**learning, **fixed}), frozen, batch, key=key)

        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(learning)
        one = jnp.ones((), jnp.float32)
        return grads, {"loss": (value.astype(jnp.float32), one), **metrics}

    def step(
        state: TrainState, frozen: Params, batch: Batch, key: Key
    ) -> tuple[TrainState, Metrics]:
        learning, fixed = split_params(state.params, trained)
        key = jax.random.fold_in(key, state.step)
        if accumulate == 1:
            grads, metrics = grads_of(learning, fixed, frozen, batch, key)
        elif isinstance(task, TwoStage):
            keys = jax.random.split(key, accumulate)
            grads, value, metrics = cached_grads(
                task, lambda p: nested({**p, **fixed}), learning, frozen, batch, keys, placed
            )
            metrics = {"loss": (value.astype(jnp.float32), jnp.ones((), jnp.float32)), **metrics}
        else:
            parts = cut_batch(batch, accumulate, placed)
            keys = jax.random.split(key, accumulate)
            first = jax.tree.map(lambda x: x[0], parts)
            shapes = jax.eval_shape(grads_of, learning, fixed, frozen, first, keys[0])
            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

            def add(total, part):
                new = grads_of(learning, fixed, frozen, *part)
                return jax.tree.map(jnp.add, total, new), None

            (grads, metrics), _ = jax.lax.scan(add, zeros, (parts, keys))
            grads = jax.tree.map(lambda g: g / accumulate, grads)
        norm = optax.global_norm(grads)
        finite = (state.step >= 0) & jnp.isfinite(metrics["loss"][0]) & jnp.isfinite(norm)
        updates, opt_state = tx.update(grads, state.opt_state, learning)
        moved: Any = optax.apply_updates(learning, updates)
        params = nested({**moved, **fixed})
        params = task.constrain(params)
        mean = state.average
        if mean is not None:
            mean = follow(mean, split_params(params, trained)[0], state.step, average)
        new = TrainState(state.step + 1, params, opt_state, mean)
        halt = jnp.where(state.step < 0, state.step, -(state.step + 1))
        halted = dataclasses.replace(state, step=halt)
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, halted)
        one = jnp.ones((), jnp.float32)
        metrics["grad_norm"] = (norm.astype(jnp.float32), one)
        metrics["finite"] = (finite.astype(jnp.float32), one)
        return new, metrics

    return step


def count_params(params: Params) -> int:
    """Counts the numbers in a tree of parameters."""
    return sum(leaf.size for leaf in flat_names(params).values())

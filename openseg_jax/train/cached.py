"""Gradients of a loss between examples, with towers that see a part of the batch at a time.

Every part is encoded without gradients; the loss of all embeddings together says how each of them
should move; and each part is encoded again to pull that back to the parameters. All negatives are
kept and nothing is approximated, for one more forward pass: 4/3 of the arithmetic. Gradients of
parameters are summed over the devices once a part, as in any accumulation under `jit`: take as few
parts as memory allows.

Source: GradCache (Gao et al. 2021, "Scaling deep contrastive learning batch size under memory
limited setup"), section 3. open_clip's `--accum-freq` encodes every other part again for each
part; with cached gradients the work grows with the number of parts, not with its square.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from openseg_jax.errors import UserError
from openseg_jax.tasks.base import Batch, Metrics, TwoStage
from openseg_jax.types import Array, Key, Params


def cut_batch(batch: Batch, parts: int, placed: NamedSharding | None = None) -> Any:
    """Cuts a batch into `parts` along a new leading axis.

    Part a takes rows a, a + parts, …: each device then keeps the rows it already holds.

    Args:
        batch: arrays with one row an example.
        parts: how many; they are of equal size.
        placed: where the rows of a batch lie; None leaves it to the compiler.

    Raises:
        UserError: where the parts do not divide the batch, or the devices a part.
    """
    devices = 1 if placed is None else _holders(placed)

    def cut(x: Array) -> Array:
        rows = x.shape[0]
        if rows % parts or rows // parts % devices:
            among = f" on each of {devices} devices" if devices > 1 else ""
            raise UserError(
                f"accumulate: expected a divisor of the batch of {rows // devices}{among}, got "
                f"{parts}; change one of them"
            )
        x = x.reshape(rows // parts, parts, *x.shape[1:]).swapaxes(0, 1)
        return _lay(x, placed, 1)

    return jax.tree.map(cut, batch)


def join_parts(parts: Any, placed: NamedSharding | None = None) -> Any:
    """Undoes `cut_batch`."""

    def join(x: Array) -> Array:
        x = x.swapaxes(0, 1)
        return _lay(x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), placed, 0)

    return jax.tree.map(join, parts)


def _holders(placed: NamedSharding) -> int:
    """Counts the devices that hold different rows."""
    axes = placed.spec[0] if len(placed.spec) else None
    names = axes if isinstance(axes, tuple) else (axes,)
    return math.prod(n for name, n in placed.mesh.shape.items() if name in names)


def _lay(x: Array, placed: NamedSharding | None, before: int) -> Array:
    """Keeps the rows, which are axis `before`, where they lie in a batch."""
    if placed is None:
        return x
    spec = PartitionSpec(*[None] * before, *placed.spec)
    return jax.lax.with_sharding_constraint(x, NamedSharding(placed.mesh, spec))


def cached_grads(
    task: TwoStage,
    build: Callable[[Any], Params],
    learning: Any,
    frozen: Params,
    batch: Batch,
    keys: Key,
    placed: NamedSharding | None = None,
) -> tuple[Any, Array, Metrics]:
    """Computes loss, metrics and gradients of a whole batch, encoding a part of it at a time.

    Args:
        task: brings `encode` and `contrast`.
        build: from what learns to the task's parameters.
        learning: what to differentiate by, any pytree.
        frozen: the task's frozen tree.
        batch: the whole batch.
        keys: one for each part; both passes over a part use the same.
        placed: where the rows of the batch lie; None leaves it to the compiler.

    Returns:
        Gradients, loss, metrics.
    """
    parts = cut_batch(batch, len(keys), placed)

    def encode(learning: Any, part: Batch, key: Key) -> Any:
        return task.encode(build(learning), frozen, part, key=key)

    def forward(_: None, part: Any) -> tuple[None, Any]:
        return None, encode(learning, *part)

    _, embeddings = jax.lax.scan(forward, None, (parts, keys))

    def contrast(learning: Any, embeddings: Any) -> tuple[Array, Metrics]:
        return task.contrast(build(learning), embeddings, batch)

    (value, metrics), (direct, slopes) = jax.value_and_grad(contrast, (0, 1), has_aux=True)(
        learning, join_parts(embeddings, placed)
    )

    def pull_back(total: Any, part: Any) -> tuple[Any, None]:
        rows, key, slope = part
        _, pull = jax.vjp(lambda learning: encode(learning, rows, key), learning)
        return jax.tree.map(jnp.add, total, pull(slope)[0]), None

    slopes = cut_batch(slopes, len(keys), placed)
    grads, _ = jax.lax.scan(pull_back, direct, (parts, keys, slopes))
    return grads, value, metrics

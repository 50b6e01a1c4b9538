"""Which prediction answers for which ground-truth segment: the Hungarian method, inside jit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from optax.assignment import hungarian_algorithm

from openseg_jax.errors import expected
from openseg_jax.types import Array, Bool, Float, Int

__all__ = ["match_segments"]


def match_segments(cost: Float[Array, "*B K M"], valid: Bool[Array, "*B K"]) -> Int[Array, "*B K"]:
    """Assigns to each segment a prediction of its own so that the total cost is least.

    Rows that are padding get one constant cost: they take what the others leave, and since each
    must only be different from the rest they change nothing about the others.

    Args:
        cost: of giving segment k to prediction m; finite. No gradient flows through.
        valid: segments that exist.

    Returns:
        Int32[*B K], the prediction of each segment; for padding one that no segment has.

    Raises:
        UserError: for more segments than predictions.
    """
    count, predictions = cost.shape[-2:]
    if count > predictions:
        raise expected(
            "segments", f"at most {predictions}, one for each prediction", str(count),
            "lower input.masks.segments or take a generator with more queries",
        )  # fmt: skip
    cost = jax.lax.stop_gradient(jnp.where(valid[..., None], cost.astype(jnp.float32), 0.0))

    def one(cost: Array) -> Array:
        rows, columns = hungarian_algorithm(cost)
        return jnp.zeros(count, jnp.int32).at[rows].set(columns.astype(jnp.int32))

    flat = jax.vmap(one)(cost.reshape(-1, count, predictions))
    return flat.reshape(cost.shape[:-1])

"""Attention on a grid whose logits know how far apart two cells are (decomposed positions).

Each pair of cells gets q·r_row + q·r_column added to its logit, where the two learnt vectors depend
on the rows and columns between them. Written out that is a number for every pair and head, far
more than the tables; heads are worked on some at a time, so that few of them are ever held.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.errors import expected
from openseg_jax.ops.platform import target
from openseg_jax.types import Array, Float

__all__ = ["relative_attention"]

# Logits that are held at once on accelerators, in numbers.
_LOGITS = 2**26


def relative_attention(
    q: Float[Array, "B N A d"],
    k: Float[Array, "B N A d"],
    v: Float[Array, "B N A d"],
    rows: Float[Array, "R d"],
    columns: Float[Array, "S d"],
    grid: tuple[int, int],
) -> Float[Array, "B N A d"]:
    """Attends the cells of a grid to each other with decomposed relative positions.

    softmax(q·kᵀ/√d + q·rows[y − y' + h − 1] + q·columns[x − x' + w − 1]) v for a query at (y, x)
    and a key at (y', x'). Logits and softmax are float32 whatever the dtype of the inputs.

    Args:
        q, k, v: of all cells, row by row.
        rows: one vector for each distance between rows, R = 2h − 1.
        columns: one for each distance between columns, S = 2w − 1.
        grid: (h, w), N = h·w.

    Returns:
        The attended values, in the dtype of `v`.

    Raises:
        UserError: for tables of another length.

    Source: MViTv2 (Li et al. 2022), as in Segment Anything; the query is not scaled here.
    """
    h, w = grid
    for name, table, length in (("rows", rows, h), ("columns", columns, w)):
        if table.shape[0] != 2 * length - 1:
            raise expected(
                f"relative {name}", f"{2 * length - 1} vectors for {length} cells",
                f"{table.shape[0]}", "give the size that the weights were trained for",
            )  # fmt: skip
    batch, cells, heads, width = q.shape
    to_rows, to_columns = (jnp.asarray(table)[_apart(n)] for table, n in ((rows, h), (columns, w)))

    def one(inputs: tuple[Array, Array, Array]) -> Array:
        q1, k1, v1 = inputs
        logits = jnp.dot(q1, k1.T, preferred_element_type=jnp.float32) * width**-0.5
        at = q1.reshape(h, w, width)
        up, along = (
            jnp.einsum(spell, at, table.astype(at.dtype), preferred_element_type=jnp.float32)
            for spell, table in (("yxd,ykd->yxk", to_rows), ("yxd,xkd->yxk", to_columns))
        )
        logits = logits.reshape(h, w, h, w) + up[..., :, None] + along[..., None, :]
        logits = logits.reshape(cells, cells)
        # Dividing after the product touches N·d numbers instead of N².
        weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
        out = jnp.dot(weights.astype(v1.dtype), v1, preferred_element_type=jnp.float32)
        return (out / weights.sum(axis=-1, keepdims=True)).astype(v1.dtype)

    def flat(x: Array) -> Array:
        return x.transpose(0, 2, 1, 3).reshape(batch * heads, cells, width)

    # XLA's batched products are slow on CPUs, see ops.attention.
    at_once = None if target() == "cpu" else max(1, min(batch * heads, _LOGITS // cells**2))
    out = jax.lax.map(one, (flat(q), flat(k), flat(v)), batch_size=at_once)
    return out.reshape(batch, heads, cells, width).transpose(0, 2, 1, 3)


def _apart(length: int) -> np.ndarray:
    """Returns which vector each pair of positions takes, int[n n]."""
    at = np.arange(length)
    return at[:, None] - at[None, :] + length - 1

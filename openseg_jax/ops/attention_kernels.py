"""Attention by the fused kernels of NVIDIA's cards and of TPUs, brought to the shapes they take."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from openseg_jax.types import Array, Bool, Float

# Both absorb any logit in bfloat16 and float32, and the second any of the first: a row that
# admits nothing is uniform over the keys that exist.
_MASKED, _ABSENT = -1e30, -1e38
_LANES = 128


def cudnn_operands(
    q: Float[Array, "B N A d"],
    k: Float[Array, "B S A d"],
    v: Float[Array, "B S A d"],
    mask: Bool[Array, "#B #A #N S"] | None,
    bias: Float[Array, "N S"] | None,
) -> tuple[Array, Array, Array, Float[Array, "#B #A n s"] | None]:
    """Brings a call to what cuDNN takes: one added bias, and with one even numbers of tokens.

    Tokens that are added to an odd number are keys that nobody sees and queries to cut off.
    A bias that may learn is spread over the heads: cuDNN gives no gradient for a broadcast one.
    """
    if mask is None and bias is None:
        return q, k, v, None
    queries, keys, heads = q.shape[1], k.shape[1], q.shape[2]
    added: Any = jnp.zeros((1, 1, 1, 1), q.dtype)
    if bias is not None:
        added = jnp.broadcast_to(bias.astype(q.dtype), (1, heads, queries, keys))
    if mask is not None:
        added = jnp.where(mask, added, jnp.asarray(_MASKED, q.dtype))
    added = jnp.broadcast_to(added, (*added.shape[:2], queries, keys))
    down, across = queries % 2, keys % 2
    q = jnp.pad(q, ((0, 0), (0, down), (0, 0), (0, 0)))
    k, v = (jnp.pad(x, ((0, 0), (0, across), (0, 0), (0, 0))) for x in (k, v))
    added = jnp.pad(added, ((0, 0), (0, 0), (0, 0), (0, across)), constant_values=_ABSENT)
    return q, k, v, jnp.pad(added, ((0, 0), (0, 0), (0, down), (0, 0)))


def cudnn_attention(q, k, v, mask, bias, *, implementation: str = "cudnn") -> Any:
    """Computes attention by cuDNN's fused kernel; arguments as `ops.attention.attention`.

    The gradients of a row that admits nothing are those of its uniform weights; elsewhere zero.
    Under `jax.vmap` masks and biases must be mapped too: JAX up to 0.11 mixes up shared ones.

    Args:
        q, k, v, mask, bias: see `ops.attention.attention`.
        implementation: "xla" computes the same from the same operands, for tests.
    """
    queries = q.shape[1]
    q, k, v, added = cudnn_operands(q, k, v, mask, bias)
    chosen: Any = implementation
    out = jax.nn.dot_product_attention(q, k, v, bias=added, implementation=chosen)
    return out[:, :queries]


def splash_attention(
    q: Float[Array, "B N A d"],
    k: Float[Array, "B S A d"],
    v: Float[Array, "B S A d"],
    *,
    interpret: bool = False,
) -> Float[Array, "B N A d"]:
    """Computes attention by JAX's fused kernel for TPUs, without mask or bias.

    Tokens are padded to multiples of 128 and told apart from padding by segment ids.

    Args:
        q, k, v: as in `ops.attention.attention`.
        interpret: run the kernel's program on any device, slowly, for tests.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as splash,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    heads, width, queries = q.shape[2], q.shape[3], q.shape[1]
    (q, rows), (k, columns), (v, _) = (_pad_lanes(x) for x in (q, k, v))
    down, across = _block(q.shape[2]), _block(k.shape[2])
    sizes = splash.BlockSizes(
        block_q=down,
        block_kv=across,
        block_q_dkv=down,
        block_kv_dkv=across,
        block_q_dq=down,
        block_kv_dq=across,
    )
    full = masks.MultiHeadMask([masks.FullMask((q.shape[2], k.shape[2]))] * heads)
    kernel = splash.make_splash_mha(
        full, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
    )
    ids = splash.SegmentIds(rows, columns)
    scaled = (q * width**-0.5).astype(q.dtype)
    out: Any = jax.vmap(lambda q, k, v: kernel(q, k, v, segment_ids=ids))(scaled, k, v)
    return out[:, :, :queries].transpose(0, 2, 1, 3).astype(v.dtype)


def _pad_lanes(x: Float[Array, "B N A d"]) -> tuple[Float[Array, "B A n d"], Array]:
    """Pads tokens; returns heads first, and 1 for what exists and 0 for what does not."""
    more = -x.shape[1] % _LANES
    ids = jnp.pad(jnp.ones(x.shape[1], jnp.int32), (0, more))
    return jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))).transpose(0, 2, 1, 3), ids


def _block(tokens: int) -> int:
    """Returns the largest block up to 512 that divides the padded tokens."""
    return math.gcd(tokens, 4 * _LANES)

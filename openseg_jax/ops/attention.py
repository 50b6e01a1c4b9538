"""Scaled dot-product attention: one entry, one backend per platform.

XLA's batched products are slow on CPUs, and that alone puts a ViT behind torch there. A map over
(batch × heads) of plain 2-D products, dividing after the value product, is about three times
faster (900 tokens, 12 heads, two cores). On GPUs cuDNN's fused kernel serves where dtype and head
width allow. Elsewhere XLA fuses well up to about a thousand tokens. All backends are tested equal;
`attention_choice` decides among them, and says why.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from openseg_jax.ops.attention_choice import (
    BACKENDS,
    choose_backend,
    explain_backend,
    say_once,
)
from openseg_jax.ops.attention_kernels import cudnn_attention, splash_attention
from openseg_jax.types import Array, Bool, Float

__all__ = ["BACKENDS", "attention", "attention_weights", "choose_backend", "explain_backend"]

# A finite stand-in for -inf: rows without any admitted key give a uniform row, never NaN.
_MASKED = -1e30


def attention(
    q: Float[Array, "B N A d"],
    k: Float[Array, "B S A d"],
    v: Float[Array, "B S A d"],
    *,
    mask: Bool[Array, "#B #A #N S"] | None = None,
    bias: Float[Array, "N S"] | None = None,
    backend: str = "auto",
) -> Float[Array, "B N A d"]:
    """Attends every query to the admitted keys of its image.

    softmax(q·kᵀ/√d + bias) v, with logits and softmax in float32 whatever the dtype of the inputs.

    Args:
        q: queries.
        k: keys.
        v: values.
        mask: True where a query may see a key; None admits all. A row that admits nothing
            yields the mean of the values rather than NaN.
        bias: added to the logits, the same for all images and heads; None adds nothing.
        backend: one of `BACKENDS`.

    Returns:
        The attended values, in the dtype of `v`.
    """
    tokens, width = k.shape[1], q.shape[-1]
    chosen, why = explain_backend(
        backend,
        q.dtype,
        width,
        keys=tokens,
        mask=None if mask is None else mask.shape,
        biased=bias is not None,
    )
    masked = "" if mask is None else ", masked"
    say_once(chosen, why, f"{tokens} tokens, heads of {width}, {q.dtype}{masked}")
    if chosen == "cudnn":
        return cudnn_attention(q, k, v, mask, bias)
    if chosen == "splash":
        return splash_attention(q, k, v)
    if chosen == "map":
        if mask is not None:
            full = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
            mask = jnp.broadcast_to(mask, full)
        return _map_attention(q, k, v, mask, bias)
    return _xla_attention(q, k, v, mask, bias)


def attention_weights(
    q: Float[Array, "B N A d"],
    k: Float[Array, "B S A d"],
    *,
    mask: Bool[Array, "#B #A #N S"] | None = None,
    bias: Float[Array, "N S"] | None = None,
) -> Float[Array, "B A N S"]:
    """Computes softmax(q·kᵀ/√d + bias) in float32."""
    logits = jnp.einsum("bnad,bsad->bans", q, k, preferred_element_type=jnp.float32)
    logits = logits * q.shape[-1] ** -0.5
    if bias is not None:
        logits = logits + bias
    if mask is not None:
        logits = jnp.where(mask, logits, _MASKED)
    return jax.nn.softmax(logits, axis=-1)


def _xla_attention(q, k, v, mask, bias):
    weights = attention_weights(q, k, mask=mask, bias=bias).astype(v.dtype)
    return jnp.einsum("bans,bsad->bnad", weights, v)


@jax.custom_vjp
def _map_attention(q, k, v, mask, bias):
    batch, queries, heads, width = q.shape

    def one(inputs):
        q1, k1, v1, *rest = inputs
        logits = jnp.dot(q1, k1.T, preferred_element_type=jnp.float32) * width**-0.5
        if bias is not None:
            logits = logits + bias
        if rest:
            logits = jnp.where(rest[0], logits, _MASKED)
        # Dividing after the product touches N·d numbers instead of N·S.
        weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
        out = jnp.dot(weights.astype(v1.dtype), v1, preferred_element_type=jnp.float32)
        return (out / weights.sum(axis=-1, keepdims=True)).astype(v1.dtype)

    def rows(x):
        return x.transpose(0, 2, 1, 3).reshape(batch * heads, x.shape[1], width)

    inputs = (rows(q), rows(k), rows(v))
    if mask is not None:
        inputs += (mask.reshape(batch * heads, *mask.shape[2:]),)
    out = jax.lax.map(one, inputs)
    return out.reshape(batch, heads, queries, width).transpose(0, 2, 1, 3)


def _map_forward(q, k, v, mask, bias):
    # The gradient of the map is slower than that of the batched form, so training takes the
    # batched form for both passes.
    def batched(q, k, v, bias):
        return _xla_attention(q, k, v, mask, bias)

    return jax.vjp(batched, q, k, v, bias)


def _map_backward(pullback, cotangent):
    *inputs, bias = pullback(cotangent)
    return (*inputs, None, bias)


_map_attention.defvjp(_map_forward, _map_backward)

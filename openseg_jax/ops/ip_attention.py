"""Attention of many class tokens, each restricted to itself and to the patches of its own mask.

MAFT writes this as one attention over N + L tokens with a block mask of (N + L)² entries a head.
Nothing but N·L of them can ever be open besides the diagonal, so the class tokens are taken apart:
each one has L masked logits and a single logit with itself. The mask is shared by all heads and is
never repeated over them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from openseg_jax.ops.attention import choose_backend
from openseg_jax.types import Array, Bool, Float

__all__ = ["ip_attention"]

# Finite, so that an empty mask leaves a softmax over the own logit alone and never NaN.
_MASKED = -1e30


def ip_attention(
    q: Float[Array, "B N A d"],
    k: Float[Array, "B N A d"],
    v: Float[Array, "B N A d"],
    patch_k: Float[Array, "B L A d"],
    patch_v: Float[Array, "B L A d"],
    masks: Bool[Array, "B N L"],
    *,
    backend: str = "auto",
) -> Float[Array, "B N A d"]:
    """Attends class token i to itself and to the patches inside mask i, and to nothing else.

    softmax([q_i·k_i, q_i·patch_kᵀ where mask_i]/√d) [v_i; patch_v], logits and softmax in float32.

    Args:
        q, k, v: of the class tokens, any N of 1 or more.
        patch_k, patch_v: of the patches.
        masks: True where a patch belongs to the token's mask, the same for all heads. An empty
            mask leaves the token its own value; a full one admits all patches.
        backend: as in `ops.attention`; "cudnn" takes the batched form here.

    Returns:
        The attended values, in the dtype of `v`.

    Source: maft.md §1.5, the decoupled form of the block mask; equal to the dense one.
    """
    if choose_backend(backend, q.dtype, q.shape[-1]) == "map":
        return _mapped(q, k, v, patch_k, patch_v, masks)
    return _batched(q, k, v, patch_k, patch_v, masks)


def _own(q: Any, k: Any) -> Float[Array, "*B N"]:
    return (q.astype(jnp.float32) * k.astype(jnp.float32)).sum(-1) * q.shape[-1] ** -0.5


def _batched(q, k, v, patch_k, patch_v, masks):
    own = _own(q, k).transpose(0, 2, 1)[..., None]
    logits = jnp.einsum("bnad,blad->banl", q, patch_k, preferred_element_type=jnp.float32)
    logits = jnp.where(masks[:, None], logits * q.shape[-1] ** -0.5, _MASKED)
    top = jax.lax.stop_gradient(jnp.maximum(logits.max(axis=-1, keepdims=True), own))
    weights, alone = jnp.exp(logits - top), jnp.exp(own - top)
    total = weights.sum(axis=-1, keepdims=True) + alone
    weights, alone = (weights / total).astype(v.dtype), alone / total
    out = jnp.einsum("banl,blad->bnad", weights, patch_v, preferred_element_type=jnp.float32)
    out = out + alone.transpose(0, 2, 1, 3) * v.astype(jnp.float32)
    return out.astype(v.dtype)


@jax.custom_vjp
def _mapped(q, k, v, patch_k, patch_v, masks):
    # Plain 2-D products, one head after the other: what XLA does fast on a CPU.
    def image(inputs):
        *tensors, mask = inputs

        def head(part):
            q1, k1, v1, keys, values = part
            own = _own(q1, k1)[:, None]
            logits = jnp.dot(q1, keys.T, preferred_element_type=jnp.float32)
            logits = jnp.where(mask, logits * q1.shape[-1] ** -0.5, _MASKED)
            top = jnp.maximum(logits.max(axis=-1, keepdims=True), own)
            weights, alone = jnp.exp(logits - top), jnp.exp(own - top)
            out = jnp.dot(weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
            out = out + alone * v1.astype(jnp.float32)
            return (out / (weights.sum(axis=-1, keepdims=True) + alone)).astype(v1.dtype)

        return jax.lax.map(head, tensors)

    tensors = [x.transpose(0, 2, 1, 3) for x in (q, k, v, patch_k, patch_v)]
    return jax.lax.map(image, (*tensors, masks)).transpose(0, 2, 1, 3)


def _mapped_forward(q, k, v, patch_k, patch_v, masks):
    # As in `ops.attention`: the gradient of the map is slower than that of the batched form.
    def batched(q, k, v, patch_k, patch_v):
        return _batched(q, k, v, patch_k, patch_v, masks)

    return jax.vjp(batched, q, k, v, patch_k, patch_v)


def _mapped_backward(pullback, cotangent):
    return (*pullback(cotangent), None)


_mapped.defvjp(_mapped_forward, _mapped_backward)

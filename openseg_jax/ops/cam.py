"""Grad-CAM by its closed form, and its refinement along attention.

CaR (as CLIP-ES) takes the gradient of the softmax probability of every text with respect to the
input of the last attention, averages it over the patches and projects the activations on it. Three
facts make that cheap, and none of them is an approximation:

* min-max normalisation removes every positive factor, so the gradient of the probability may be
  replaced by that of f·c_k with c_k = Σ_{j≠k} p_j (t_k − t_j);
* only the mean over patches of the gradients of queries, keys and values is used, and those means
  need neither an N×N matrix a text nor the in-projection a token (`patch_mean_gradients`);
* the affinity that refines the maps does not depend on the text.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from openseg_jax.types import Array, Bool, Float

__all__ = [
    "activation_maps",
    "attend_with_mean_map",
    "min_max",
    "patch_mean_gradients",
    "refine",
    "rival_cotangents",
    "transition",
]

_TINY = 1e-15
_ABSENT = -1e30


def min_max(
    x: Float[Array, "*K L"], valid: Bool[Array, " L"] | None = None
) -> Float[Array, "*K L"]:
    """Stretches the last axis to [0, 1]; a constant row becomes 0.

    Args:
        x: any values.
        valid: entries that exist; the others neither count nor come out other than 0.

    Source: (x − min)/(1e-15 + max − min), car.md §3.3.
    """
    low = jnp.where(valid, x, jnp.inf) if valid is not None else x
    high = jnp.where(valid, x, -jnp.inf) if valid is not None else x
    low, high = low.min(axis=-1, keepdims=True), high.max(axis=-1, keepdims=True)
    span = high - low
    y = (x - low) / (_TINY + span)
    # A compiler may divide by multiplying with the reciprocal. The greatest value is then a hair
    # below 1, its byte 254 instead of 255, and the threshold that goes by it another one.
    y = jnp.where((x >= high) & (span + _TINY == span), 1, y)
    return y if valid is None else jnp.where(valid, y, 0)


def rival_cotangents(
    logits: Float[Array, " C"], vectors: Float[Array, "C E"], admitted: Bool[Array, "K C"]
) -> tuple[Float[Array, "K E"], Float[Array, "K C"]]:
    """Computes what to pull back for each of the first K texts, and their probabilities.

    Row k is c_k = Σ_{j≠k} p_kj (t_k − t_j), p_k = softmax of the logits that row k admits. The
    gradient of text k's own probability is s·p_kk times the pullback of c_k, s the logit scale.
    Summed over rivals, not as t_k − Σ p_j t_j, nothing cancels when p_kk is close to 1.

    Args:
        logits: of all C texts (foreground first).
        vectors: unit-norm embeddings of all C texts.
        admitted: row k says which texts compete with text k; it must admit k itself unless row k
            is padding.

    Returns:
        Cotangents of the unit-norm image feature, and probabilities; rows that admit nothing are 0.
    """
    p = jax.nn.softmax(jnp.where(admitted, logits, _ABSENT), axis=-1)
    p = jnp.where(admitted, p, 0)
    own = jnp.eye(*admitted.shape, dtype=p.dtype)
    rivals = p * (1 - own)
    weights = own * rivals.sum(axis=-1, keepdims=True) - rivals
    return jnp.matmul(weights, vectors, precision=lax.Precision.HIGHEST), p


def attend_with_mean_map(
    q: Float[Array, "N A d"],
    k: Float[Array, "N A d"],
    v: Float[Array, "N A d"],
    keys: Bool[Array, " N"] | None = None,
    *,
    by_head: bool,
) -> tuple[Float[Array, "N A d"], Float[Array, "N N"]]:
    """Attends, and returns the attention map averaged over heads too.

    Args:
        q, k, v: of one image.
        keys: tokens that exist; None means all.
        by_head: loop over heads, which holds one map at a time and is several times faster on a
            CPU; False runs them as one batch.

    Returns:
        Attended values in the dtype of `v`, and the mean map in float32.
    """

    def head(one: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        qh, kh, vh = one
        weights = _weights(qh, kh, keys)
        return jnp.dot(weights.astype(vh.dtype), vh), weights

    heads: Any = tuple(x.transpose(1, 0, 2) for x in (q, k, v))
    if by_head:
        start = jnp.zeros((q.shape[0], k.shape[0]), jnp.float32)

        def body(total: Array, one: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            out, weights = head(one)
            return total + weights, out

        total, out = lax.scan(body, start, heads)
    else:
        out, maps = jax.vmap(head)(heads)
        total = maps.sum(axis=0)
    return out.transpose(1, 0, 2), total / q.shape[1]


def _weights(
    q: Float[Array, "N d"], k: Float[Array, "N d"], keys: Bool[Array, " N"] | None
) -> Float[Array, "N N"]:
    logits = jnp.dot(q, k.T, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    if keys is not None:
        logits = jnp.where(keys, logits, _ABSENT)
    return jax.nn.softmax(logits, axis=-1)


def patch_mean_gradients(
    q: Float[Array, "N A d"],
    k: Float[Array, "N A d"],
    v: Float[Array, "N A d"],
    cotangents: Float[Array, "K N A d"],
    *,
    prefix: int,
    patches: Bool[Array, " N"],
    by_head: bool,
) -> tuple[Float[Array, "K A d"], Float[Array, "K A d"], Float[Array, "K A d"]]:
    """Pulls cotangents of attended values back to queries, keys and values, patch means only.

    With P the attention, o = P v and δ_m = ȯ_m·o_m, the chain rule gives v̇ = Pᵀȯ and
    Ṡ_mn = P_mn (ȯ_m·v_n − δ_m). Rows of P sum to 1 and rows of Ṡ to 0, hence over patches n

        Σ_n v̇_n = Σ_m (1 − Σ_c P_mc) ȯ_m        Σ_n k̇_n = −Σ_m q_m Σ_c Ṡ_mc / √d

    with c the prefix (class token), and Σ_m q̇_m = Σ_n k_n (v_n·(Pᵀȯ)_n − (Pᵀδ)_n) / √d. One N×N
    product a text is left of the four that a full pullback takes.

    Args:
        q, k, v: of one image.
        cotangents: of the attended values, one set a text; tokens that do not exist hold 0.
        prefix: tokens before the patches.
        patches: patch tokens that exist (False for prefix and padding).
        by_head: as in `attend_with_mean_map`.

    Returns:
        Means over the patches of the gradients of queries, keys and values, float32.
    """
    keys = patches | (jnp.arange(patches.shape[0]) < prefix)
    count = patches.sum().astype(jnp.float32)
    scale = q.shape[-1] ** -0.5

    def head(one: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array]:
        qh, kh, vh, g = one  # g: [N K d]
        n, texts, width = g.shape
        weights = _weights(qh, kh, keys)
        out = jnp.dot(weights.astype(vh.dtype), vh, preferred_element_type=jnp.float32)
        g = g.astype(jnp.float32)
        delta = jnp.einsum("mtd,md->mt", g, out)
        to_prefix = weights[:, :prefix]  # [N prefix]
        d_value = jnp.einsum("m,mtd->td", 1 - to_prefix.sum(axis=1), g)
        inner = jnp.einsum("mtd,cd->mtc", g, vh[:prefix].astype(jnp.float32))
        slope = (to_prefix[:, None] * (inner - delta[..., None])).sum(axis=-1)
        d_key = -jnp.einsum("mt,md->td", slope, qh.astype(jnp.float32)) * scale
        # Only patch queries enter the mean of the queries' gradients.
        g = jnp.where(patches[:, None, None], g, 0).astype(vh.dtype)
        back = jnp.dot(
            weights.astype(vh.dtype).T, g.reshape(n, texts * width),
            preferred_element_type=jnp.float32,
        ).reshape(n, texts, width)  # fmt: skip
        pull = jnp.einsum("ntd,nd->nt", back, vh.astype(jnp.float32))
        pull = pull - jnp.dot(weights.T, jnp.where(patches[:, None], delta, 0))
        d_query = jnp.einsum("nt,nd->td", pull, kh.astype(jnp.float32)) * scale
        return d_query / count, d_key / count, d_value / count

    heads: Any = tuple(x.transpose(1, 0, 2) for x in (q, k, v))
    heads += (cotangents.transpose(2, 1, 0, 3),)
    out = lax.map(head, heads) if by_head else jax.vmap(head)(heads)
    d_query, d_key, d_value = (x.transpose(1, 0, 2) for x in out)
    return d_query, d_key, d_value


def activation_maps(
    activations: Float[Array, "L D"],
    weights: Float[Array, "K D"],
    valid: Bool[Array, " L"] | None = None,
) -> Float[Array, "K L"]:
    """Projects activations on gradient weights, cuts negatives and stretches to [0, 1]."""
    maps = jnp.einsum("kd,ld->kl", weights, activations, precision=lax.Precision.HIGHEST)
    return min_max(jax.nn.relu(maps), valid)


def transition(
    affinity: Float[Array, "L L"], valid: Bool[Array, " L"] | None = None, *, rounds: int = 3
) -> Float[Array, "L L"]:
    """Turns a non-negative affinity into a symmetric, nearly doubly stochastic matrix.

    Args:
        affinity: mean attention among patches; rows and columns that do not exist may hold
            anything.
        valid: patches that exist; the others get rows and columns of 0.
        rounds: of Sinkhorn: columns first, then rows.

    Source: car.md §3.5 (CLIP-ES).
    """
    if valid is not None:
        affinity = jnp.where(valid[:, None] & valid, affinity, 0)

    def normalise(x: Array, axis: int) -> Array:
        total = x.sum(axis=axis, keepdims=True)
        return x / jnp.where(total > 0, total, 1)

    for _ in range(rounds):
        affinity = normalise(normalise(affinity, 0), 1)
    return (affinity + affinity.T) / 2


def refine(
    step: Float[Array, "L L"], maps: Float[Array, "K L"], boxes: Bool[Array, "K L"]
) -> Float[Array, "K L"]:
    """Spreads maps twice along the transition matrix, starting inside their boxes only.

    Two products with K vectors replace the squared matrix. What was inside leaks outside, as in
    the reference, which masks columns and not rows.
    """
    x = jnp.where(boxes, maps, 0)
    for _ in range(2):
        x = jnp.matmul(x, step.T, precision=lax.Precision.HIGHEST)
    return x

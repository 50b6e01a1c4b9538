"""Losses between image and text embeddings, in float32, with an array of all pairs.

`ops.ring_softmax` and `ops.ring_sigmoid` compute the same without one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from openseg_jax.ops.ring import product
from openseg_jax.types import Array, Bool, Float, Int


def same_caption(caption: Int[Array, "B"]) -> Bool[Array, "B B"]:
    """Tells which pairs of a batch carry the same caption; the diagonal is always True."""
    return caption[:, None] == caption[None, :]


def softmax_contrastive(
    image: Float[Array, "B E"],
    text: Float[Array, "B E"],
    scale: Float[Array, ""],
    positive: Bool[Array, "B B"],
) -> Float[Array, ""]:
    """Computes CLIP's symmetric cross-entropy with soft targets.

    Row i's target spreads evenly over the columns that are positive for it. Where the texts of
    positives have the very same embedding this changes nothing; it counts where captions are
    equal in meaning only, or where the text tower is not deterministic.

    Args:
        image: unit-length image embeddings.
        text: unit-length text embeddings; row i belongs to image i.
        scale: what cosines are multiplied with, exp(logit_scale).
        positive: symmetric; True where caption j describes image i. Its diagonal must be True.

    Returns:
        The mean over both directions, in nats.

    Source: CLIP (Radford et al. 2021) figure 3, which is the case of a diagonal `positive`.
    """
    logits = product(image, text.T) * scale
    target = positive.astype(logits.dtype)
    target = target / target.sum(axis=1, keepdims=True)
    rows = -(target * jax.nn.log_softmax(logits, axis=1)).sum(axis=1).mean()
    # `positive` is symmetric, so the targets of the columns are the transposed ones of the rows.
    columns = -(target.T * jax.nn.log_softmax(logits, axis=0)).sum(axis=0).mean()
    return 0.5 * (rows + columns)


def sigmoid_contrastive(
    image: Float[Array, "B E"],
    text: Float[Array, "B E"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    positive: Bool[Array, "B B"],
) -> Float[Array, ""]:
    """Computes SigLIP's loss: every pair is a binary question of its own.

    Args:
        image, text, scale, positive: as in `softmax_contrastive`.
        bias: added to every logit; starts at −10, for nearly all pairs are negative.

    Returns:
        The sum over pairs divided by the number of images, in nats.

    Source: SigLIP (Zhai et al. 2023) algorithm 1; equal captions count as positives here. The
    original takes them for negatives, and then pushes and pulls the same pair of vectors.
    """
    logits = product(image, text.T) * scale + bias
    sign = jnp.where(positive, 1.0, -1.0)
    return -jax.nn.log_sigmoid(sign * logits).sum(axis=1).mean()

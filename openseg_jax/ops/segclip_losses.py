"""SegCLIP's two losses beside the contrastive one: reconstruction and superpixel agreement."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from openseg_jax.types import Array, Float, Int

__all__ = ["masked_reconstruction", "superpixel_kl", "superpixel_means"]


def masked_reconstruction(
    predicted: Float[Array, "B M P"], patches: Float[Array, "B L P"], hidden: Int[Array, "B M"]
) -> Float[Array, ""]:
    """Computes the mean squared error of the hidden patches' pixels.

    Args:
        predicted: pixels of the hidden patches, CLIP-normalised.
        patches: all patches of the image in the same order of pixels; not normalised by patch.
        hidden: which patches were predicted.

    Source: MAE's loss with `norm_pix_loss` off, a mean over all hidden patches of the batch.
    """
    wanted = jnp.take_along_axis(patches, hidden[..., None], axis=1).astype(jnp.float32)
    return jnp.square(predicted.astype(jnp.float32) - wanted).mean()


def superpixel_means(
    assignment: Float[Array, "B G L"], superpixels: Int[Array, "B L"]
) -> Float[Array, "B L G"]:
    """Averages the assignment of each patch's superpixel over all of its patches."""
    same = (superpixels[:, :, None] == superpixels[:, None, :]).astype(jnp.float32)
    total = jnp.einsum("blm,bgm->blg", same, assignment, precision="highest")
    return total / same.sum(axis=-1, keepdims=True)


def superpixel_kl(
    assignment: Float[Array, "B G L"], superpixels: Int[Array, "B L"]
) -> Float[Array, ""]:
    """Computes how far patches are from the mean assignment of their superpixel.

    With p = softmax(h) of a patch and q = softmax(m) of its superpixel's mean:
    ½ [KL(q ‖ p) + KL(p ‖ q)], a mean over B·L·G. The gradient flows through both sides.

    Args:
        assignment: h, as it is, e.g. the hard straight-through map; it acts as logits. Zeros and
            ones keep the loss within [0, 0.0221] for 8 groups.
        superpixels: id of each patch; equal ids within an image belong together.

    Returns:
        Float32, in nats.

    Source: SegCLIP, eq. 9 as the published code computes it.
    """
    assignment = assignment.astype(jnp.float32)
    log_p = jax.nn.log_softmax(assignment.swapaxes(1, 2), axis=-1)
    log_q = jax.nn.log_softmax(superpixel_means(assignment, superpixels), axis=-1)
    # Both divergences together: Σ (q − p)(log q − log p).
    return 0.5 * ((jnp.exp(log_q) - jnp.exp(log_p)) * (log_q - log_p)).mean()

"""What losses on masks and on mask proposals are made of; all in float32, padded rows left out."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from openseg_jax.ops.resize import apply_matrices, half_pixel
from openseg_jax.types import Array, Bool, Float

__all__ = [
    "dice_loss",
    "focal_loss",
    "masked_mean",
    "min_max_rows",
    "pairwise_dice",
    "pairwise_focal",
    "segment_iou",
    "smooth_l1",
]

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


def segment_iou(segments: Array, proposals: Float[Array, "*B M h w"]) -> Float[Array, "*B K M"]:
    """Computes the soft IoU of every segment with every proposal: Σ pg / (Σ g + Σ p − Σ pg).

    Proposals stay soft. Where their size differs they are meant to be enlarged to that of the
    segments (bilinear, half-pixel). Σ over pixels of an enlarged proposal times a segment equals
    Σ over the small pixels of the proposal times the segment under the transposed resize, so the
    few segments are brought to the many proposals, by one matrix product, and no enlarged
    proposal is ever held.

    Args:
        segments: Bool or Float[*B K H W], ground truth, 0/1.
        proposals: probabilities in [0, 1], any size.

    Returns:
        Float32[*B K M] in [0, 1]; 0 where both are empty.

    Source: maft.md §2. The published code adds 1e-7 to the denominator and loops over segments.
    """
    segments, proposals = segments.astype(jnp.float32), proposals.astype(jnp.float32)
    truth, area = segments.sum(axis=(-2, -1)), proposals
    size, small = segments.shape[-2:], proposals.shape[-2:]
    if size != small:
        rows, columns = half_pixel(small[0], size[0]), half_pixel(small[1], size[1])
        area = proposals * jnp.asarray(rows.sum(0)[:, None] * columns.sum(0), jnp.float32)
        segments = apply_matrices(segments, rows.T, columns.T)
    inter = _product(segments, proposals)
    union = truth[..., :, None] + area.sum(axis=(-2, -1))[..., None, :] - inter
    return jnp.where(union > 0, inter / jnp.where(union > 0, union, 1), 0)


def min_max_rows(
    values: Float[Array, "*B K M"], valid: Bool[Array, "*#B #K M"] | None = None
) -> Float[Array, "*B K M"]:
    """Stretches each row to [0, 1]: (u − min)/(max − min + 1e-8). A constant row becomes 0.

    Args:
        values: any numbers.
        valid: entries that exist; others neither count nor stay (they become 0).

    Source: maft.md §2.
    """
    exists = jnp.ones(values.shape[-1], bool) if valid is None else valid
    low = jnp.where(exists, values, jnp.inf).min(axis=-1, keepdims=True)
    high = jnp.where(exists, values, -jnp.inf).max(axis=-1, keepdims=True)
    stretched = (values - low) / (high - low + 1e-8)
    return jnp.where(exists, stretched, 0.0)


def smooth_l1(
    first: Float[Array, "..."], second: Float[Array, "..."], *, beta: float = 1.0
) -> Float[Array, "..."]:
    """Computes ½d²/β where |d| < β, else |d| − ½β, for each pair of numbers."""
    d = jnp.abs(first.astype(jnp.float32) - second.astype(jnp.float32))
    return jnp.where(d < beta, 0.5 * d * d / beta, d - 0.5 * beta)


def masked_mean(
    values: Float[Array, "..."], valid: Bool[Array, "..."]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Averages the entries that exist; 0 where none does.

    Returns:
        The mean, and how many entries it is over.
    """
    valid = jnp.broadcast_to(valid, values.shape)
    count = valid.sum(dtype=jnp.float32)
    return jnp.where(valid, values, 0.0).sum() / jnp.maximum(count, 1.0), count


def _focal_parts(logits: Array) -> tuple[Array, Array]:
    """Returns the loss of each pixel if it is inside, and if it is outside."""
    x = logits.astype(jnp.float32)
    p = jax.nn.sigmoid(x)
    inside = FOCAL_ALPHA * (1.0 - p) ** FOCAL_GAMMA * jax.nn.softplus(-x)
    outside = (1.0 - FOCAL_ALPHA) * p**FOCAL_GAMMA * jax.nn.softplus(x)
    return inside, outside


def focal_loss(logits: Float[Array, "*B H W"], target: Array) -> Float[Array, "*B"]:
    """Computes the focal loss of each mask, the mean over its pixels (α = ¼, γ = 2).

    Args:
        logits: before the sigmoid.
        target: Bool or Float[*B H W], 0/1.

    Source: Lin et al. 2017 eq. 5; maft.md §5.4.
    """
    inside, outside = _focal_parts(logits)
    target = target.astype(jnp.float32)
    return (target * inside + (1.0 - target) * outside).mean(axis=(-2, -1))


def dice_loss(logits: Float[Array, "*B H W"], target: Array) -> Float[Array, "*B"]:
    """Computes 1 − (2 Σ pg + 1)/(Σ p + Σ g + 1) of each mask.

    Args:
        logits: before the sigmoid.
        target: Bool or Float[*B H W], 0/1.
    """
    p, g = jax.nn.sigmoid(logits.astype(jnp.float32)), target.astype(jnp.float32)
    both = (p * g).sum(axis=(-2, -1))
    return 1.0 - (2.0 * both + 1.0) / (p.sum(axis=(-2, -1)) + g.sum(axis=(-2, -1)) + 1.0)


def pairwise_focal(logits: Float[Array, "*B M H W"], target: Array) -> Float[Array, "*B K M"]:
    """Computes `focal_loss` of every mask against every target, by two matrix products."""
    inside, outside = _focal_parts(logits)
    target = target.astype(jnp.float32)
    pixels = logits.shape[-2] * logits.shape[-1]
    return (_product(target, inside) + _product(1.0 - target, outside)) / pixels


def pairwise_dice(logits: Float[Array, "*B M H W"], target: Array) -> Float[Array, "*B K M"]:
    """Computes `dice_loss` of every mask against every target, by one matrix product."""
    p, g = jax.nn.sigmoid(logits.astype(jnp.float32)), target.astype(jnp.float32)
    sums = p.sum(axis=(-2, -1))[..., None, :] + g.sum(axis=(-2, -1))[..., :, None]
    return 1.0 - (2.0 * _product(g, p) + 1.0) / (sums + 1.0)


def _product(target: Array, values: Array) -> Array:
    # Row by row, then summed: one product over all pixels of a picture is added up one by one on
    # CPUs, and loses three digits.
    by_row = jnp.einsum("...khw,...mhw->...hkm", target, values, precision="highest")
    return by_row.sum(axis=-3)

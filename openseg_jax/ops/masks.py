"""From soft masks to label maps, overlaps between masks, and matching masks to proposals.

Label maps hold 0 for background and i + 1 for class i.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from openseg_jax.errors import check_shape
from openseg_jax.ops.resize import resize
from openseg_jax.types import Array, Bool, Float, Int, Masks

__all__ = [
    "Match",
    "match_proposals",
    "merge_sentences",
    "paint_labels",
    "soft_iou",
    "to_label_map",
]

# Referring masks at or below this share of the image are replaced by the union, car.md §7.4.
_SMALL_AREA = 0.05
# Sums over classes and pixels that are held at once, in numbers.
_EVIDENCE = 2**26
# Rows of pixels that are held at once where nobody knows how many numbers that is.
_ROWS = 16


def paint_labels(
    masks: Float[Array, "M H W"],
    scores: Float[Array, "M"],
    ids: Int[Array, "M"] | None = None,
    *,
    valid: Bool[Array, "M"] | None = None,
    base: Int[Array, "H W"] | None = None,
    threshold: float = 0.5,
) -> Int[Array, "H W"]:
    """Paints masks in ascending order of their scores, so that the best one stays on top.

    Args:
        masks: soft, boolean or 0/1 masks; a pixel belongs where the value is above `threshold`.
        scores: masks with a score of 0 or less are not painted. Of equal scores the later wins.
        ids: class of each mask, painted as id + 1; None means 0, 1, 2, …
        valid: False rows are not painted; None means all are.
        base: label map to paint on, e.g. the stuff below the things; None means background.
        threshold: see `masks`.

    Returns:
        Int32[H W].

    Source: car.md §7.3. Things overwrite stuff whatever the scores: paint stuff first, then give
    the result as `base`.
    """
    count = masks.shape[0]
    labels = jnp.arange(count, dtype=jnp.int32) if ids is None else jnp.asarray(ids, jnp.int32)
    painted = scores > 0 if valid is None else (scores > 0) & valid
    under = jnp.zeros(masks.shape[1:], jnp.int32) if base is None else jnp.asarray(base, jnp.int32)
    if count == 0:
        return under
    # Painting one over the other keeps, at every pixel, the covering mask of the highest rank.
    order = jnp.argsort(scores, stable=True)
    rank = jnp.zeros(count, jnp.int32).at[order].set(jnp.arange(1, count + 1, dtype=jnp.int32))
    covers = (masks > threshold) & painted[:, None, None]
    top = jnp.where(covers, rank[:, None, None], 0).max(axis=0)
    label_of_rank = jnp.zeros(count + 1, jnp.int32).at[rank].set(labels + 1)
    return jnp.where(top > 0, label_of_rank[top], under)


def to_label_map(masks: Masks, *, threshold: float | None = 0.5) -> Int[Array, "B H W"]:
    """Turns a method's masks into one label a pixel.

    The rule follows from what the scores are:

    - none: mask m is class m, and the mask with the largest value wins;
    - one a mask: `paint_labels` with mask m as class m, the best score on top;
    - one a mask and class: classes are compared by Σ_m score · mask.

    Args:
        masks: what a segmenter returns.
        threshold: a pixel where nothing is above it is background. None leaves no background:
            every pixel gets its best class (with one score a mask: the largest soft mask). Masks
            that are not valid never count; where none is, all is background.

    Returns:
        Int32[B H W]: 0 background, i + 1 class i.
    """
    check_shape(masks.probs, "B M H W", "masks.probs")
    probs, scores = masks.probs.astype(jnp.float32), masks.scores
    valid = masks.valid
    if masks.probs.shape[1] == 0:
        return jnp.zeros((probs.shape[0], *probs.shape[2:]), jnp.int32)
    if scores is not None and scores.ndim == 2 and threshold is not None:
        return jax.vmap(
            lambda p, s, v: paint_labels(p, s, valid=v, threshold=threshold), in_axes=(0, 0, 0)
        )(probs, scores, valid)
    if scores is not None and scores.ndim == 3:
        weights = jnp.where(valid[..., None], scores.astype(jnp.float32), 0)
        labels, top = _strongest(weights, probs)
    else:
        evidence = jnp.where(valid[..., None, None], probs, -jnp.inf)
        labels, top = evidence.argmax(axis=1).astype(jnp.int32), evidence.max(axis=1)
    kept = jnp.broadcast_to(valid.any(axis=1)[:, None, None], labels.shape)
    if threshold is not None:
        kept = kept & (top > threshold)
    return jnp.where(kept, labels + 1, 0)


def _strongest(
    weights: Float[Array, "B M C"], probs: Float[Array, "B M H W"]
) -> tuple[Int[Array, "B H W"], Float[Array, "B H W"]]:
    """Finds each pixel's class with the largest Σ_m weight · mask, and that sum.

    Many classes on large images are compared some rows at a time, so that memory is bounded.
    """

    def rows(part: Array) -> tuple[Array, Array]:
        evidence = jnp.einsum("bmc,bm...->bc...", weights, part, precision=lax.Precision.HIGHEST)
        return evidence.argmax(axis=1).astype(jnp.int32), evidence.max(axis=1)

    batch, _, height, width = probs.shape
    numbers: Any = batch * weights.shape[2] * width
    # Where an export leaves a size open, there may be many of them.
    room = _EVIDENCE // max(numbers, 1) if isinstance(numbers, int) else _ROWS
    if room >= height:
        return rows(probs)
    found = lax.map(rows, jnp.moveaxis(probs, 2, 0), batch_size=max(room, 1))
    return jnp.moveaxis(found[0], 0, 1), jnp.moveaxis(found[1], 0, 1)


def soft_iou(
    first: Float[Array, "*B M H W"], second: Float[Array, "*B N H W"]
) -> Float[Array, "*B M N"]:
    """Computes Σ pq / Σ (p + q - pq) for every pair of soft masks; 0 where both are empty.

    Args:
        first: values in [0, 1].
        second: values in [0, 1], same size.

    Returns:
        Float32[*B M N]; for 0/1 masks the usual intersection over union.
    """
    inter = _products(first, second)
    union = first.sum(axis=(-2, -1))[..., :, None] + second.sum(axis=(-2, -1))[..., None, :] - inter
    return jnp.where(union > 0, inter / jnp.where(union > 0, union, 1), 0)


def _products(
    first: Float[Array, "*B M H W"], second: Float[Array, "*B N H W"]
) -> Float[Array, "*B M N"]:
    return jnp.einsum(
        "...mhw,...nhw->...mn",
        first.astype(jnp.float32),
        second.astype(jnp.float32),
        precision=lax.Precision.HIGHEST,
    )


class Match(NamedTuple):
    """What `match_proposals` found.

    Attributes:
        masks: Bool[M H W], each mask or the union of proposals that replaced it.
        overlap: Float[M Q], intersection over the smaller of the two (IoM), as filtered.
        union: Bool[M H W], union of each mask's matched proposals.
    """

    masks: Bool[Array, "M H W"]
    overlap: Float[Array, "M Q"]
    union: Bool[Array, "M H W"]


def match_proposals(
    masks: Bool[Array, "M H W"],
    proposals: Bool[Array, "Q H W"],
    *,
    iom_threshold: Any,
    min_cover: Any,
    iou_threshold: Any,
    valid: Bool[Array, "Q"] | None = None,
) -> Match:
    """Replaces masks by the union of the class-agnostic proposals that agree with them.

    Args:
        masks: what a method predicted. Empty masks stay empty. NumPy arrays are matched on the
            host, all others as part of a program.
        proposals: e.g. SAM's automatic masks; Q of 1 or more.
        iom_threshold: a proposal matches where its IoM is above (`iom_thres`); when none is,
            the best one is taken.
        min_cover: share of the mask that a proposal must cover for its own share inside the mask
            to count (`min_pred_threshold`).
        iou_threshold: the union replaces the mask where their IoU is above
            (`matching_thresh`); a negative number replaces always, as the published demo does.
        valid: proposals that exist; None means all.

    Returns:
        `Match`.

    Source: car.md §7.2. An empty proposal never matches (the reference divides by zero).
    """
    # The number of proposals differs from picture to picture: on the host nothing is compiled.
    host = isinstance(masks, np.ndarray) and isinstance(proposals, np.ndarray)
    xp: Any = np if host else jnp

    def area(x: Array) -> Array:
        return x.sum(axis=(1, 2), dtype=xp.int32).astype(xp.float32)

    area_p, area_q = area(masks)[:, None], area(proposals)[None, :]
    exists = area_q > 0 if valid is None else (area_q > 0) & valid[None, :]
    inter = _shared_pixels(masks, proposals) if host else _products(masks, proposals)
    of_proposal = inter / xp.maximum(area_q, 1)
    of_mask = inter / xp.maximum(area_p, 1)
    overlap = xp.maximum(xp.where(of_mask < min_cover, 0, of_proposal), of_mask)
    overlap = xp.where(exists, overlap, 0)
    matched = overlap > iom_threshold
    best = xp.arange(proposals.shape[0]) == overlap.argmax(axis=1)[:, None]
    matched = xp.where(matched.any(axis=1, keepdims=True), matched, best) & exists
    if host:
        union = np.zeros_like(masks)
        for row, chosen in zip(union, matched, strict=True):
            row[:] = proposals[chosen].any(axis=0)
    else:
        chosen, every = matched.astype(jnp.float32), proposals.astype(jnp.float32)
        union = jnp.einsum("mq,qhw->mhw", chosen, every) > 0.5
    iou = area(union & masks) / xp.maximum(area(union | masks), 1)
    replace = (iou > iou_threshold) & (area_p[:, 0] > 0) & matched.any(axis=1)
    return Match(xp.where(replace[:, None, None], union, masks), overlap, union)


def _shared_pixels(
    first: Bool[np.ndarray, "M H W"], second: Bool[np.ndarray, "N H W"]
) -> Float[np.ndarray, "M N"]:
    # Some at a time: as numbers, hundreds of masks would take gigabytes.
    rows = first.reshape(len(first), -1).astype(np.float32)
    out = np.empty((len(first), len(second)), np.float32)
    for start in range(0, len(second), 16):
        part = second[start : start + 16]
        out[:, start : start + 16] = rows @ part.reshape(len(part), -1).astype(np.float32).T
    return out


def merge_sentences(
    masks: Float[Array, "M H W"], scores: Float[Array, "M"], size: tuple[int, int]
) -> Bool[Array, "H2 W2"]:
    """Merges the masks of all sentences about one object into one mask of the wanted size.

    The mean weighted by the scores is resized and cut at one half. Where that leaves at most 5 %
    of the image, the union of all masks is taken instead.

    Args:
        masks: one mask a sentence, 0/1 or soft.
        scores: weights, 0 or more; if all are 0 only the union can remain.
        size: (H2, W2), static, e.g. that of the ground truth.

    Returns:
        Bool[H2 W2].

    Source: car.md §7.4; both resizes are bilinear with half-pixel centres.
    """
    masks, scores = jnp.asarray(masks, jnp.float32), jnp.asarray(scores, jnp.float32)
    total = scores.sum()
    weights = scores / jnp.where(total > 0, total, 1)
    mean = jnp.einsum("m,mhw->hw", weights, masks, precision=lax.Precision.HIGHEST)
    merged = resize(mean, size) >= 0.5
    # The union is resized in bytes by the reference: one half rounds up to 1.
    union = resize((masks > 0).any(axis=0).astype(jnp.float32), size) >= 0.5
    small = merged.sum(dtype=jnp.int32) <= _SMALL_AREA * size[0] * size[1]
    return jnp.where(small, union, merged)

"""CLIP's loss over batches whose B × B logits fit nowhere."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from openseg_jax.ops.ring import (
    Best,
    Ring,
    accumulator,
    add_trees,
    better,
    no_best,
    over_tiles,
    product,
)
from openseg_jax.types import Array, Float, Int


class _Rows(NamedTuple):
    """What is known of images: Σ exp(logit − best.value), and of the positives Σ and count."""

    best: Best
    total: Float[Array, "B"]
    positive: Float[Array, "B"]
    count: Float[Array, "B"]


class _Columns(NamedTuple):
    """What is known of texts: Σ exp(logit − peak)."""

    peak: Float[Array, "B"]
    total: Float[Array, "B"]


def _join(a: _Columns, b: _Columns) -> _Columns:
    peak = jnp.maximum(a.peak, b.peak)
    return _Columns(peak, a.total * jnp.exp(a.peak - peak) + b.total * jnp.exp(b.peak - peak))


def _forward(ring: Ring, image: Any, text: Any, scale: Any, caption: Any) -> tuple[Any, ...]:
    """One device's part: loss and hits of the batch; log-sums and counts of its own rows."""
    rows, dtype = image.shape[0], accumulator(image.dtype)

    def tile(own: Any, kept: _Rows, seen: Any, sums: _Columns) -> tuple[_Rows, _Columns]:
        image, row_caption = own
        text, column_caption, number = seen
        logits = product(image, text.T) * scale
        positive = row_caption[:, None] == column_caption[None, :]
        best = better(kept.best, logits, number, positive)
        peak = jnp.maximum(sums.peak, logits.max(axis=0))
        total = kept.total * jnp.exp(kept.best.value - best.value)
        columns = sums.total * jnp.exp(sums.peak - peak)
        kept = _Rows(
            best,
            total + jnp.exp(logits - best.value[:, None]).sum(axis=1),
            kept.positive + jnp.where(positive, logits, 0).sum(axis=1),
            kept.count + positive.sum(axis=1, dtype=dtype),
        )
        return kept, _Columns(peak, columns + jnp.exp(logits - peak).sum(axis=0))

    zero = jnp.zeros(rows, dtype)
    kept, columns = ring.tour(
        lambda kept, seen, sums: over_tiles(tile, kept, (image, caption), sums, seen, ring.block),
        ring.start(_Rows(no_best(rows, dtype), zero, zero, zero)),
        (text, caption, ring.numbers(rows)),
        ring.start(_Columns(jnp.full(rows, -jnp.inf, dtype), zero)),
        _join,
    )
    row_sum = kept.best.value + jnp.log(kept.total)
    column_sum = columns.peak + jnp.log(columns.total)
    # Captions that are equal have equal counts, so the positives pay the same in both directions.
    pay = (row_sum - 2.0 * kept.positive / kept.count + column_sum).sum()
    loss = ring.total(pay) / (2 * rows * ring.size)
    hits = ring.total(kept.best.hit.sum().astype(jnp.float32))
    return loss, hits, row_sum, column_sum, kept.count


def _backward(
    ring: Ring,
    image: Any,
    text: Any,
    scale: Any,
    caption: Any,
    row_sum: Any,
    column_sum: Any,
    count: Any,
    given: Any,
) -> tuple[Any, Any, Any]:
    """One device's part: gradients of its image rows and text rows, and of the scale."""
    rows, dtype = image.shape[0], accumulator(image.dtype)

    def tile(own: Any, kept: Any, seen: Any, sums: Any) -> tuple[Any, Any]:
        image, row_caption, row_sum, count = own
        text, column_caption, column_sum = seen
        logits = product(image, text.T) * scale
        positive = row_caption[:, None] == column_caption[None, :]
        slope = jnp.exp(logits - row_sum[:, None]) + jnp.exp(logits - column_sum)
        slope = slope - jnp.where(positive, 2.0 / count[:, None], 0)
        slope = slope.astype(image.dtype)
        return kept + product(slope, text), sums + product(slope.T, image)

    own = (image, caption, row_sum, count)
    zero = ring.start(jnp.zeros(image.shape, dtype))
    to_image, to_text = ring.tour(
        lambda kept, seen, sums: over_tiles(tile, kept, own, sums, seen, ring.block),
        zero,
        (text, caption, column_sum),
        zero,
        add_trees,
    )
    share = given / (2 * rows * ring.size)
    to_scale = share * ring.total((image.astype(dtype) * to_image).sum())
    factor = share * scale
    return (factor * to_image).astype(image.dtype), (factor * to_text).astype(text.dtype), to_scale


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def ring_softmax(
    image: Float[Array, "B E"],
    text: Float[Array, "B E"],
    scale: Float[Array, ""],
    caption: Int[Array, "B"],
    ring: Ring,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Computes `softmax_contrastive` with `same_caption`, and what is found, tile by tile.

    One product a tile serves both directions: the images' log-sums stay, the texts' travel with
    the texts. The backward pass makes the products again.

    Memory of a device beyond its own rows, with n = B / N rows on each of N devices, embeddings of
    E numbers of s bytes and tiles of b × b, in bytes, each up to a small factor for buffers that
    are being read while others are written: forward 2·n·E·s + 12·b² + 60·n; backward
    2·n·E·(s + 8) + 12·b². Nothing grows with B².

    Bytes that a device sends: forward (N − 1)·n·(E·s + 16), for texts, captions, numbers and
    log-sums; backward (N − 1)·n·(E·(s + 4) + 8), for texts again and their float32 gradients.
    Where images stay at home every device must see all other texts, and gradients must be summed
    over all devices: (N − 1)·n·E numbers each, which is what is sent. Texts travel twice
    because keeping them would take B·E·s bytes on each device; that is a third of all
    numbers sent. A √N × √N layout of the pairs would send 2·(√N − 1)·n·E in the place of
    (N − 1)·n·E, for √N times the rows in memory. It is not used: for B = 32,768, E = 768 on 256
    devices a step sends 0.3 GB from each device, 6 ms at 50 GB/s, which is about a hundredth of
    the time that ViT-L/14's towers take there at half of 197 TFLOP/s (computed, not measured).
    On TPUs s is 2 whatever the inputs: their products read bfloat16 unless told otherwise, so the
    compiler sends texts as that.

    Args:
        image: unit-length image embeddings; any float dtype. Sums are float32 (float64 for
            float64), gradients come in the dtype of the inputs.
        text: unit-length text embeddings; row i belongs to image i.
        scale: what cosines are multiplied with, exp(logit_scale).
        caption: equal numbers mean equal captions, which are positives of one another.
        ring: where the rows lie, and the size of tiles.

    Returns:
        The loss in nats, and the number of images whose best text is a positive (the first of equal
        ones counts). The loss may be differentiated by image, text and scale.

    Raises:
        UserError: for a batch that does not divide among the devices.
    """
    return _begin(image, text, scale, caption, ring)[0]


def _begin(image: Any, text: Any, scale: Any, caption: Any, ring: Ring) -> tuple[Any, Any]:
    ring.check(image.shape[0])
    one, rows = PartitionSpec(), ring.rows
    run = ring.run(
        functools.partial(_forward, ring), (rows, rows, one, rows), (one, one, rows, rows, rows)
    )
    loss, hits, *sums = run(image, text, scale, caption)
    return (loss, hits), (image, text, scale, caption, *sums)


def _finish(ring: Ring, saved: Any, given: Any) -> tuple[Any, Any, Any, None]:
    one, rows = PartitionSpec(), ring.rows
    run = ring.run(
        functools.partial(_backward, ring),
        (rows, rows, one, rows, rows, rows, rows, one),
        (rows, rows, one),
    )
    to_image, to_text, to_scale = run(*saved, given[0])
    return to_image, to_text, to_scale.astype(jnp.result_type(saved[2])), None


ring_softmax.defvjp(_begin, _finish)

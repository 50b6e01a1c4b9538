"""SigLIP's loss over batches whose B × B logits fit nowhere."""

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
    """What is known of images; the last three only where gradients are asked for."""

    best: Best
    pay: Float[Array, "B"]
    to_image: Float[Array, "B E"] | None
    to_bias: Float[Array, "B"] | None


def _pass(
    ring: Ring, slopes: bool, image: Any, text: Any, scale: Any, bias: Any, caption: Any
) -> tuple[Any, ...]:
    """One device's part: loss and hits of the batch, and with `slopes` all gradients."""
    rows, dtype = image.shape[0], accumulator(image.dtype)

    def tile(own: Any, kept: _Rows, seen: Any, sums: Any) -> tuple[_Rows, Any]:
        image, row_caption = own
        text, column_caption, number = seen
        logits = product(image, text.T) * scale + bias
        positive = row_caption[:, None] == column_caption[None, :]
        # -log σ(sign · logit), and its slope -sign · σ(-sign · logit)
        against = jnp.where(positive, -logits, logits)
        best = better(kept.best, logits, number, positive)
        pay = kept.pay + jax.nn.softplus(against).sum(axis=1)
        if kept.to_image is None or kept.to_bias is None:
            return _Rows(best, pay, None, None), sums
        slope = jnp.where(positive, -1.0, 1.0) * jax.nn.sigmoid(against)
        to_bias = kept.to_bias + slope.sum(axis=1)
        slope = slope.astype(image.dtype)
        to_image = kept.to_image + product(slope, text)
        return _Rows(best, pay, to_image, to_bias), sums + product(slope.T, image)

    flat, wide = jnp.zeros(rows, dtype), jnp.zeros(image.shape, dtype)
    nothing = _Rows(no_best(rows, dtype), flat, *((wide, flat) if slopes else (None, None)))
    kept, to_text = ring.tour(
        lambda kept, seen, sums: over_tiles(tile, kept, (image, caption), sums, seen, ring.block),
        ring.start(nothing),
        (text, caption, ring.numbers(rows)),
        ring.start(wide if slopes else None),
        add_trees,
    )
    count = rows * ring.size
    loss = ring.total(kept.pay.sum()) / count
    hits = ring.total(kept.best.hit.sum().astype(jnp.float32))
    if kept.to_image is None or kept.to_bias is None:
        return loss, hits
    to_scale = ring.total((image.astype(dtype) * kept.to_image).sum()) / count
    to_bias = ring.total(kept.to_bias.sum()) / count
    factor = scale / count
    return loss, hits, factor * kept.to_image, factor * to_text, to_scale, to_bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def ring_sigmoid(
    image: Float[Array, "B E"],
    text: Float[Array, "B E"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    caption: Int[Array, "B"],
    ring: Ring,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Computes `sigmoid_contrastive` with `same_caption`, and what is found, tile by tile.

    A pair's slope depends on that pair alone, so where gradients are asked for they are made in
    the very pass that computes the loss: one product of logits and one exchange, and the backward
    pass only multiplies.

    Memory of a device beyond its own rows, letters as in `ring_softmax`: 2·n·E·s + 12·b² + 40·n
    without gradients, 2·n·E·(s + 8) + 12·b² + 40·n with them. Nothing grows with B².

    Bytes that a device sends: (N − 1)·n·(E·s + 8) for texts, captions and numbers, and
    (N − 1)·n·E·4 more for the float32 gradients of the texts. Where images stay at home this is
    the least possible: every device must see all other texts, and gradients must be summed over
    all devices. On layouts that send less see `ring_softmax`.

    Args:
        image, text, scale, caption, ring: as in `ring_softmax`.
        bias: added to every logit.

    Returns:
        The loss in nats, and the number of images whose best text is a positive (the first of equal
        ones counts). The loss may be differentiated by image, text, scale and bias.

    Raises:
        UserError: for a batch that does not divide among the devices.
    """
    return _run(image, text, scale, bias, caption, ring, slopes=False)


def _run(
    image: Any, text: Any, scale: Any, bias: Any, caption: Any, ring: Ring, *, slopes: bool
) -> tuple[Any, ...]:
    ring.check(image.shape[0])
    one, rows = PartitionSpec(), ring.rows
    outs = (one, one, rows, rows, one, one) if slopes else (one, one)
    run = ring.run(functools.partial(_pass, ring, slopes), (rows, rows, one, one, rows), outs)
    return run(image, text, scale, bias, caption)


def _begin(
    image: Any, text: Any, scale: Any, bias: Any, caption: Any, ring: Ring
) -> tuple[Any, Any]:
    loss, hits, *slopes = _run(image, text, scale, bias, caption, ring, slopes=True)
    # Arrays of no rows remember the dtypes that gradients are wanted in.
    likes = [jnp.zeros((0,), jnp.result_type(x)) for x in (image, text, scale, bias)]
    return (loss, hits), (slopes, likes)


def _finish(ring: Ring, saved: Any, given: Any) -> tuple[Any, ...]:
    del ring
    slopes, likes = saved
    grads = [(given[0] * s).astype(like.dtype) for s, like in zip(slopes, likes, strict=True)]
    return (*grads, None)


ring_sigmoid.defvjp(_begin, _finish)

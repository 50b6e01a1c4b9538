"""MAFT stage 1: the proposal generator learns masks and class embeddings beside a frozen CLIP.

Every prediction of the decoder, the queries' own and one a layer, is matched to the ground truth by
itself and pays for class, mask and overlap. Source: maft.md §5.4 and §3.2.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.models.clip import normalize
from openseg_jax.models.generator import Generator
from openseg_jax.ops.mask_losses import (
    dice_loss,
    focal_loss,
    pairwise_dice,
    pairwise_focal,
)
from openseg_jax.ops.matching import match_segments
from openseg_jax.ops.resize import resize
from openseg_jax.tasks.base import Batch, Metrics, Rules
from openseg_jax.tasks.maft import Propose, upsampled
from openseg_jax.types import Array, Bool, Float, Int, Key, Params

__all__ = ["GeneratorTask", "Weights", "criterion", "frozen_generator", "match"]

MASK_STRIDE = 4
"""Pixels of the padded image to one of a mask's."""

TRAINABLE: Rules = ((r"generator/backbone/.*norm/.*", False), (r".*", True))
"""All but the backbone's frozen batch norms."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """What the parts of the criterion count; the same in matching and in the loss.

    Attributes:
        classes: of the cross-entropy, and of −probability in matching.
        mask: of the focal loss. dice: of the dice loss.
        no_object: of a query without a segment, in the cross-entropy's weighted mean.
    """

    classes: float = 1.0
    mask: float = 20.0
    dice: float = 5.0
    no_object: float = 0.1


def match(
    logits: Float[Array, "B M G"],
    masks: Float[Array, "B M h w"],
    segments: Bool[Array, "B K H W"],
    segment_class: Int[Array, "B K"],
    segment_valid: Bool[Array, "B K"],
    weights: Weights,
) -> Int[Array, "B K"]:
    """Finds each segment's query, at the masks' own resolution.

    Args:
        logits: of the classes, "no object" last.
        masks: logits.
        segments, segment_class, segment_valid: ground truth; brought to the masks' size by
            taking the nearest pixel.
        weights: of the costs.
    """
    height, width = masks.shape[2:]
    rows = np.arange(height) * segments.shape[2] // height
    columns = np.arange(width) * segments.shape[3] // width
    small = segments[:, :, rows][..., columns]
    probs = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    chance = jnp.take_along_axis(probs.swapaxes(1, 2), segment_class[..., None], axis=1)
    cost = -weights.classes * chance
    cost = cost + weights.mask * pairwise_focal(masks, small)
    cost = cost + weights.dice * pairwise_dice(masks, small)
    return match_segments(cost, segment_valid)


def criterion(
    logits: Float[Array, "B M G"],
    masks: Float[Array, "B M h w"],
    segments: Bool[Array, "B K H W"],
    segment_class: Int[Array, "B K"],
    segment_valid: Bool[Array, "B K"],
    weights: Weights,
) -> dict[str, Float[Array, ""]]:
    """Computes the losses of one prediction, not yet weighted: "classes", "mask" and "dice".

    Focal and dice losses are sums over segments, at the segments' resolution, divided by the
    number of segments in the whole batch (at least 1), over all devices. The cross-entropy is a
    weighted mean over all queries. Arguments are those of `match`.
    """
    chosen = match(logits, masks, segments, segment_class, segment_valid, weights)
    picked = jnp.take_along_axis(masks, chosen[..., None, None], axis=1)
    large = resize(picked, (segments.shape[2], segments.shape[3]))
    count = jnp.maximum(segment_valid.sum(dtype=jnp.float32), 1.0)
    focal = jnp.where(segment_valid, focal_loss(large, segments), 0.0).sum() / count
    dice = jnp.where(segment_valid, dice_loss(large, segments), 0.0).sum() / count
    nothing = logits.shape[-1] - 1
    batch = jnp.arange(logits.shape[0])[:, None]
    # Queries of padding rows are written to a place beyond the last query, which is dropped.
    where = jnp.where(segment_valid, chosen, logits.shape[1])
    target = jnp.full(logits.shape[:2], nothing, jnp.int32)
    target = target.at[batch, where].set(segment_class, mode="drop")
    log = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    loss = -jnp.take_along_axis(log, target[..., None], axis=-1)[..., 0]
    weight = jnp.where(target == nothing, weights.no_object, 1.0)
    classes = (weight * loss).sum() / weight.sum()
    return {"classes": classes, "mask": focal, "dice": dice}


@dataclasses.dataclass(frozen=True)
class GeneratorTask:
    """Trains the proposal generator.

    A batch holds `image` and segments as for `MaftTask`, and no proposals.

    Attributes:
        generator: the module.
        weights: {"generator": …, "non_object": Float[1 E]} to start from.
        text: Float[C E], unit-length rows, one a training class.
        counts: weights of the losses.
        temperature: what cosines of class embeddings are multiplied with (published: 100).
        parity: "reference" leaves the last but one prediction without a loss. The published code
            has weights for nine auxiliary predictions, but its decoder makes ten. Here every
            prediction counts.
        trainable: see `Task`.
    """

    generator: Generator
    weights: Params
    text: Float[Array, "C E"]
    counts: Weights = dataclasses.field(default_factory=Weights)
    temperature: float = 100.0
    parity: str | None = None
    trainable: Rules = TRAINABLE

    def init(self, key: Key, batch: Batch) -> tuple[Params, Params]:
        """Starts from the given weights; the text rows are frozen."""
        del key, batch
        return jax.tree.map(jnp.array, self.weights), {"text": jnp.asarray(self.text)}

    def loss(
        self, params: Params, frozen: Params, batch: Batch, *, key: Key
    ) -> tuple[Float[Array, ""], Metrics]:
        """Sums the weighted losses of all predictions."""
        data: dict[str, Any] = dict(batch)
        rows = text_rows(frozen["text"], params["non_object"])
        out: Any = self.generator.apply(
            {"params": params["generator"]}, data["image"], rows, train=True,
            rngs={"dropout": key},
        )  # fmt: skip
        masks, embedded = list(out["masks"]), list(out["class_embed"])
        if self.parity == "reference":
            masks, embedded = masks[:-2] + masks[-1:], embedded[:-2] + embedded[-1:]
        truth = (
            _padded(data["segments"], masks[0].shape[2:]),
            data["segment_class"],
            data["segment_valid"],
        )

        def one(prediction: tuple[Array, Array]) -> dict[str, Array]:
            mask, embedding = prediction
            cosines = jnp.einsum("bme,ge->bmg", normalize(embedding), rows, precision="highest")
            return criterion(self.temperature * cosines, mask, *truth, self.counts)

        # One prediction at a time: its masks at full size are the largest arrays of the step.
        found = jax.lax.map(jax.checkpoint(one), (jnp.stack(masks), jnp.stack(embedded)))
        total = sum(getattr(self.counts, name) * value.sum() for name, value in found.items())
        one_step = jnp.ones((), jnp.float32)
        metrics: Any = {name: (value[-1], one_step) for name, value in found.items()}
        return jnp.asarray(total), metrics

    def constrain(self, params: Params) -> Params:
        """Changes nothing."""
        return params


def text_rows(text: Float[Array, "C E"], non_object: Float[Array, "1 E"]) -> Float[Array, "G E"]:
    """Appends the learnt row for "no object", scaled to unit length."""
    return jnp.concatenate([text, normalize(non_object)])


def _padded(segments: Array, size: tuple[int, ...]) -> Array:
    """Pads ground truth to the canvas that the masks cover."""
    height, width = (side * MASK_STRIDE for side in size)
    bottom, right = height - segments.shape[2], width - segments.shape[3]
    return jnp.pad(segments, ((0, 0), (0, 0), (0, bottom), (0, right)))


def frozen_generator(generator: Generator, *, parity: str | None = None) -> Propose:
    """Makes what `MaftTask.propose` calls: masks of a generator that does not learn.

    Args:
        generator: the module; its parameters are {"generator": …, "text": Float[G E]}, the
            non-object row last.
        parity: "reference" leaves dropout on, as the published training does unawares, so that
            proposals vary from step to step; None takes the generator as it is in inference.
    """
    drop = parity == "reference"

    def propose(params: Params, image: Any, key: Key) -> tuple[Any, Any]:
        out: Any = generator.apply(
            {"params": params["generator"]}, image, params["text"], train=drop,
            rngs={"dropout": key} if drop else {},
        )  # fmt: skip
        logits = out["masks"][-1]
        canvas = (logits.shape[2] * MASK_STRIDE, logits.shape[3] * MASK_STRIDE)
        masks = upsampled(logits, canvas)[:, :, : image.shape[1], : image.shape[2]]
        return masks, jnp.ones(masks.shape[:2], bool)

    return propose

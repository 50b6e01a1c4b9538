"""MAFT stage 2: CLIP's image tower learns what a mask says about the class it is looked at for.

Two losses. Mask-aware: the probability of a class for every proposal follows the proposal's IoU
with that class's ground truth. Self-distillation: on the whole picture, without masks, the tower
must go on saying what CLIP says. Both passes of the student share the blocks before the masks
come in. Source: maft.md §2 and §3.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from openseg_jax.errors import expected
from openseg_jax.models.clip import normalize
from openseg_jax.models.ip_clip import (
    attention_to_masks,
    masked_tail,
    plain_tail,
    split_trunk,
)
from openseg_jax.models.preprocess import scale_pixels
from openseg_jax.models.variants import Preprocess
from openseg_jax.models.vit import VisionTransformer
from openseg_jax.ops.mask_losses import masked_mean, min_max_rows, segment_iou, smooth_l1
from openseg_jax.ops.resize import resize
from openseg_jax.ops.token_masks import token_masks
from openseg_jax.tasks.base import Batch, Metrics, Rules
from openseg_jax.tasks.pictures import painted
from openseg_jax.types import Array, Bool, Float, Key, Params, UInt8

__all__ = ["TRAINABLE", "MaftTask", "Propose", "probabilities", "upsampled"]

TRAINABLE: Rules = ((r"visual/(blocks/(attn|ln_1|ln_2)|ln_post)/.*", True), (r".*", False))
"""Attention and LayerNorms of every block, and the last LayerNorm; the rest stays CLIP's."""

Propose = Callable[
    [Params, UInt8[Array, "B H W 3"], Key], tuple[Float[Array, "B M h w"], Bool[Array, "B M"]]
]
"""(parameters, image, key) to soft masks and which of them exist, for a frozen generator."""


def upsampled(logits: Float[Array, "B M h w"], size: tuple[int, int]) -> Float[Array, "B M H W"]:
    """Turns a generator's mask logits into probabilities at the size of the image.

    Source: maft.md §2: bilinear with align_corners=True, then the sigmoid.
    """
    return jax.nn.sigmoid(resize(logits, size, convention="align_corners"))


def probabilities(
    embedding: Float[Array, "*B E"], text: Float[Array, "C E"], temperature: float
) -> Float[Array, "*B C"]:
    """Computes softmax over the classes of temperature · cosine, in float32.

    Args:
        embedding: of pictures or masks, any length.
        text: unit-length rows, real classes only (no non-object row).
        temperature: what cosines are multiplied with.
    """
    cosines = jnp.einsum("...e,ce->...c", normalize(embedding), text, precision="highest")
    return jax.nn.softmax(temperature * cosines, axis=-1)


def _student(
    visual: VisionTransformer, image: Array, inside: Array, start: int
) -> tuple[Array, Array]:
    """Encodes masks and whole picture; what comes before block `start` is computed once."""
    tokens = split_trunk(visual, image, start=start)
    masked = masked_tail(visual, tokens, inside, start=start)
    return masked, plain_tail(visual, tokens, start=start)


def _teacher(visual: VisionTransformer, image: Array, start: int) -> Array:
    return plain_tail(visual, split_trunk(visual, image, start=start), start=start)


@dataclasses.dataclass(frozen=True)
class MaftTask:
    """Fine-tunes a CLIP image tower to be mask-aware.

    A batch holds `image` UInt8[B H W 3]; `segments` Bool[B K H W], one mask for each class that
    is present, `segment_class` Int32[B K], rows of `text`, and `segment_valid` Bool[B K]; and,
    unless `propose` makes them, `proposals` Bool or Float[B M h w], probabilities, with
    `proposals_valid` Bool[B M]. Batches of one, and pictures without a labelled pixel, are fine.

    Attributes:
        visual: the tower; parameters are {"visual": its tree}.
        preprocess: mean and std that scale the pixels.
        weights: {"visual": …}, what student and teacher start from.
        text: Float[C E], unit-length rows, one a training class.
        start: first block that sees masks, see `models.ip_clip`.
        size: (H, W) that pictures are brought to, bilinearly and without regard to their aspect
            ratio (published: 480×480); None leaves them.
        temperature: what cosines are multiplied with (published: 100).
        distillation: weight of the self-distillation (published: 0.1).
        propose: a frozen generator, run inside the step; None takes proposals from the batch.
        generator: its parameters.
        trainable: see `Task`.
    """

    visual: VisionTransformer
    preprocess: Preprocess
    weights: Params
    text: Float[Array, "C E"]
    start: int
    size: tuple[int, int] | None = (480, 480)
    temperature: float = 100.0
    distillation: float = 0.1
    propose: Propose | None = None
    generator: Params = dataclasses.field(default_factory=dict)
    trainable: Rules = TRAINABLE

    def init(self, key: Key, batch: Batch) -> tuple[Params, Params]:
        """Starts from CLIP; teacher, text rows and generator are frozen.

        Raises:
            UserError: when the batch lacks proposals and there is no generator.
        """
        del key
        if self.propose is None and "proposals" not in batch:
            raise expected(
                "batch", "proposals, or a generator to make them", f"only {', '.join(batch)}",
                "name a source of proposals in input.masks.proposals or a generator",
            )  # fmt: skip
        weights = jax.tree.map(jnp.asarray, {"visual": self.weights["visual"]})
        frozen = {"teacher": weights["visual"], "text": jnp.asarray(self.text, jnp.float32)}
        if self.propose is not None:
            frozen["generator"] = jax.tree.map(jnp.asarray, self.generator)
        # The step gives its buffers back, so student and teacher must not be the same ones.
        return jax.tree.map(jnp.copy, weights), frozen

    def pixels(self, image: UInt8[Array, "B H W 3"]) -> Float[Array, "B h w 3"]:
        """Scales grey levels to what the tower expects, and brings pictures to its size."""
        scaled = scale_pixels(image, self.preprocess)
        if self.size is None or self.size == image.shape[1:3]:
            return scaled
        return resize(scaled, self.size, axes=(-3, -2))

    def forward(self, params: Params, frozen: Params, batch: Batch, *, key: Key) -> dict[str, Any]:
        """Computes what the losses compare.

        Returns:
            `student` and `teacher` Float[B C], of whole pictures; `masks` Float[B M C], of
            proposals; `iou` and `target` Float[B K M]; `valid` Bool[B M] of the proposals.
        """
        data: dict[str, Any] = dict(batch)
        proposals, valid = self._proposals(frozen, data, key)
        image, inside = self._masked(data, proposals, valid)
        masked, whole = self._apply(params["visual"], _student, image, inside, self.start)
        taught = self._apply(frozen["teacher"], _teacher, image, self.start)
        text = frozen["text"]
        iou = segment_iou(data["segments"], proposals)
        return {
            "student": probabilities(whole, text, self.temperature),
            "teacher": jax.lax.stop_gradient(probabilities(taught, text, self.temperature)),
            "masks": probabilities(masked, text, self.temperature),
            "iou": iou,
            "target": min_max_rows(iou, valid[:, None]),
            "valid": valid,
        }

    def _proposals(self, frozen: Params, data: dict[str, Any], key: Key) -> tuple[Any, Any]:
        proposals: Any
        valid: Any
        if self.propose is None:
            proposals, valid = data["proposals"], data["proposals_valid"]
        else:
            proposals, valid = self.propose(frozen["generator"], data["image"], key)
        return jax.lax.stop_gradient(proposals.astype(jnp.float32)), valid

    def _masked(self, data: dict[str, Any], proposals: Any, valid: Any) -> tuple[Any, Any]:
        """Returns the pixels, and which patches lie in each proposal."""
        image: Any = self.pixels(data["image"])
        patch = self.visual.config.patch_size
        grid = (image.shape[1] // patch, image.shape[2] // patch)
        return image, token_masks(proposals, grid) & valid[..., None]

    def _apply(self, params: Params, method: Callable[..., Any], *args: Any) -> Any:
        return self.visual.apply({"params": params}, *args, method=method)

    def loss(
        self, params: Params, frozen: Params, batch: Batch, *, key: Key
    ) -> tuple[Float[Array, ""], Metrics]:
        """Computes mask-aware loss plus weighted self-distillation.

        The mask-aware loss is the mean over all (segment, proposal) pairs of the batch that exist,
        those of all devices together. The published code averages over each device's pairs and
        then over devices, so that a picture's weight depends on which others share its device.
        """
        data: dict[str, Any] = dict(batch)
        out = self.forward(params, frozen, batch, key=key)
        classes = data["segment_class"][..., None]
        chosen = jnp.take_along_axis(out["masks"].swapaxes(1, 2), classes, axis=1)
        pairs = data["segment_valid"][..., None] & out["valid"][:, None]
        aware, count = masked_mean(smooth_l1(chosen, out["target"]), pairs)
        away = smooth_l1(out["student"], out["teacher"])
        distilled = away.mean()
        rows = jnp.float32(away.size)
        metrics = {
            "mask_aware": (aware * count, count),
            "distillation": (distilled * rows, rows),
            "segments": (data["segment_valid"].sum(dtype=jnp.float32), jnp.float32(len(away))),
        }
        return aware + self.distillation * distilled, metrics

    def pictures(
        self, params: Params, frozen: Params, batch: Batch, *, key: Key
    ) -> dict[str, UInt8[Array, "n H W 3"]]:
        """Paints each labelled segment, and the proposal that overlaps it most."""
        del params
        data: dict[str, Any] = dict(batch)
        proposals, valid = self._proposals(frozen, data, key)
        segments, exists = data["segments"], data["segment_valid"]
        iou = jnp.where(valid[:, None], segment_iou(segments, proposals), -1.0)
        best = jnp.take_along_axis(proposals, iou.argmax(-1)[..., None, None], axis=1) > 0.5
        number = jnp.where(exists, jnp.arange(1, exists.shape[1] + 1), 0)[..., None, None]
        found = exists & (iou.max(-1) > 0)
        return {
            f"masks/{name}": painted(data["image"], (number * masks).max(axis=1), exists.shape[1])
            for name, masks in (
                ("segments", segments),
                ("best_proposals", best & found[..., None, None]),
            )
        }

    def histograms(
        self, params: Params, frozen: Params, batch: Batch, *, key: Key
    ) -> dict[str, Array]:
        """Collects how good the proposals are, and how much class tokens look at their masks.

        Returns:
            `masks/best_iou`: of each segment; `masks/attention`: of each mask and head, the share
            of its class token's attention that the mask gets in the first masked block (the rest
            goes to the class token itself).
        """
        data: dict[str, Any] = dict(batch)
        proposals, valid = self._proposals(frozen, data, key)
        image, inside = self._masked(data, proposals, valid)
        iou = jnp.where(valid[:, None], segment_iou(data["segments"], proposals), -1.0).max(-1)

        def look(visual: VisionTransformer, image: Array, inside: Array, start: int) -> Array:
            tokens = split_trunk(visual, image, start=start)
            return attention_to_masks(visual, tokens, inside, start=start)

        seen = self._apply(params["visual"], look, image, inside, self.start)
        return {
            "masks/best_iou": jnp.where(data["segment_valid"], iou, jnp.nan),
            "masks/attention": jnp.where(valid[..., None], seen, jnp.nan),
        }

    def constrain(self, params: Params) -> Params:
        """Changes nothing."""
        return params

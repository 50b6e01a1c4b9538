"""Contrastive training of an image and a text tower."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.errors import unknown_name
from openseg_jax.models.clip import CLIP, init_params, normalize
from openseg_jax.models.variants import Preprocess
from openseg_jax.ops.losses import same_caption, sigmoid_contrastive, softmax_contrastive
from openseg_jax.tasks.base import Batch, Metrics, Rules
from openseg_jax.types import Array, Float, Int, Key, Params, UInt8

LOSSES = ("softmax", "sigmoid")
# OpenAI clips the temperature so that logits are never scaled by more than 100.
MAX_LOGIT_SCALE = float(np.log(100.0))


def _towers(
    clip: CLIP, image: Float[Array, "B H W 3"], ids: Int[Array, "B T"]
) -> tuple[Array, Array, Array, Array, Array]:
    """Encodes a batch: class embedding, mean-patch embedding, text, scale and bias."""
    visual = clip.visual
    tokens = visual.run(visual.embed(image))
    whole = normalize(visual.project(visual.pool(tokens)))
    patches = visual.post(tokens[:, visual.prefix :]).mean(axis=1)
    scale, bias = clip.scale_bias()
    text = normalize(clip.encode_text(ids))
    return whole, normalize(visual.project(patches)), text, scale, bias


@dataclasses.dataclass(frozen=True)
class ClipTask:
    """Trains a CLIP on pictures with captions.

    A batch holds `image` UInt8[B H W 3] at the tower's size, `ids` Int32[B T] and `caption`
    Int32[B], a hash of the caption: pictures with equal captions are positives of one another.

    Attributes:
        clip: the model.
        preprocess: mean and std that scale the pixels.
        loss_name: one of `LOSSES`.
        patch_mean_weight: weight of the same loss on the mean of the patch tokens (after the
            final LayerNorm, projected). CaR's Grad-CAM head pools exactly that mean, although
            OpenAI's CLIP never trained it: in large models it works by grace of their residual
            stream, in a tiny one it has to be taught.
        trainable: see `Task`.
        start: nested parameters to tune further; None draws fresh ones.
    """

    clip: CLIP
    preprocess: Preprocess
    loss_name: str = "softmax"
    patch_mean_weight: float = 0.0
    trainable: Rules = ((".*", True),)
    start: Params | None = dataclasses.field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.loss_name not in LOSSES:
            unknown_name(self.loss_name, LOSSES, "contrastive loss")

    def init(self, key: Key, batch: Batch) -> tuple[Params, Params]:
        """Returns `start`, or draws fresh parameters; nothing is frozen."""
        del batch
        if self.start is not None:
            return jax.tree.map(jnp.asarray, self.start), {}
        # Jitted, the forward pass that shapes the parameters is dropped instead of computed.
        return jax.jit(lambda key: init_params(self.clip, key))(key), {}

    def pixels(self, image: UInt8[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
        """Scales grey levels to what the image tower expects."""
        mean, std = (np.array(v, np.float32) for v in (self.preprocess.mean, self.preprocess.std))
        return (image.astype(jnp.float32) - 255.0 * mean) * (1.0 / (255.0 * std))

    def loss(
        self, params: Params, frozen: Params, batch: Batch, *, key: Key
    ) -> tuple[Float[Array, ""], Metrics]:
        """Computes the contrastive loss, its accuracy and the temperature."""
        del frozen, key
        out: Any = self.clip.apply(
            {"params": params}, self.pixels(batch["image"]), batch["ids"], method=_towers
        )
        image, patches, text, scale, bias = out
        positive = same_caption(batch["caption"])

        def contrast(image: Array) -> Array:
            if self.loss_name == "sigmoid":
                return sigmoid_contrastive(image, text, scale, bias, positive)
            return softmax_contrastive(image, text, scale, positive)

        total = class_loss = contrast(image)
        count = jnp.float32(image.shape[0])
        best = jnp.argmax(image @ text.T, axis=1)
        hits = jnp.take_along_axis(positive, best[:, None], axis=1).sum()
        metrics = {
            "contrastive": (class_loss * count, count),
            "retrieval": (hits.astype(jnp.float32), count),
            "logit_scale": (scale, jnp.float32(1.0)),
        }
        if self.patch_mean_weight:
            patch_loss = contrast(patches)
            total = total + self.patch_mean_weight * patch_loss
            metrics["patch_mean"] = (patch_loss * count, count)
        return total, metrics

    def constrain(self, params: Params) -> Params:
        """Keeps the logit scale at 100 or less."""
        return {**params, "logit_scale": jnp.minimum(params["logit_scale"], MAX_LOGIT_SCALE)}

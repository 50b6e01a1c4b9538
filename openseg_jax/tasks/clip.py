"""Contrastive training of an image and a text tower."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from openseg_jax.errors import expected, unknown_name
from openseg_jax.models.clip import CLIP, init_params, normalize
from openseg_jax.models.preprocess import scale_pixels
from openseg_jax.models.variants import Preprocess
from openseg_jax.ops.losses import same_caption, sigmoid_contrastive, softmax_contrastive
from openseg_jax.ops.ring import Ring
from openseg_jax.ops.ring_sigmoid import ring_sigmoid
from openseg_jax.ops.ring_softmax import ring_softmax
from openseg_jax.tasks.base import Batch, Metrics, Rules
from openseg_jax.tasks.pictures import heat
from openseg_jax.types import Array, Float, Int, Key, Params, UInt8

LOSSES = ("softmax", "sigmoid")
# OpenAI clips the temperature so that logits are never scaled by more than 100.
MAX_LOGIT_SCALE = float(np.log(100.0))


def _towers(
    clip: CLIP, image: Float[Array, "B H W 3"], ids: Int[Array, "B T"]
) -> tuple[Array, Array, Array]:
    """Embeds a batch: class token, mean of the patch tokens, text; all of unit length."""
    visual = clip.visual
    tokens = visual.run(visual.embed(image))
    whole = normalize(visual.project(visual.pool(tokens)))
    patches = visual.post(tokens[:, visual.prefix :]).mean(axis=1)
    return whole, normalize(visual.project(patches)), normalize(clip.encode_text(ids))


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
        loss_block: rows of a tile of image-text pairs, for batches whose pairs do not fit at once
            (see `ops.ring_softmax`); 0 makes one array of all pairs.
        mesh: the devices that tiles travel around; None for one device. Not used without tiles.
        axes: names of its axes that the rows of a batch lie on.
        start: nested parameters to tune further; None draws fresh ones.
    """

    clip: CLIP
    preprocess: Preprocess
    loss_name: str = "softmax"
    patch_mean_weight: float = 0.0
    trainable: Rules = ((".*", True),)
    loss_block: int = 0
    mesh: Mesh | None = None
    axes: tuple[str, ...] = ()
    start: Params | None = dataclasses.field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.loss_name not in LOSSES:
            unknown_name(self.loss_name, LOSSES, "contrastive loss")
        if self.loss_block < 0:
            raise expected("loss_block", "0 or more rows", str(self.loss_block), "try 1024")

    def init(self, key: Key, batch: Batch) -> tuple[Params, Params]:
        """Returns `start`, or draws fresh parameters; nothing is frozen."""
        del batch
        if self.start is not None:
            return jax.tree.map(jnp.asarray, self.start), {}
        # Jitted, the forward pass that shapes the parameters is dropped instead of computed.
        return jax.jit(lambda key: init_params(self.clip, key))(key), {}

    def pixels(self, image: UInt8[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
        """Scales grey levels to what the image tower expects."""
        return scale_pixels(image, self.preprocess)

    def loss(
        self, params: Params, frozen: Params, batch: Batch, *, key: Key
    ) -> tuple[Float[Array, ""], Metrics]:
        """Computes the contrastive loss, its accuracy and the temperature."""
        return self.contrast(params, self.encode(params, frozen, batch, key=key), batch)

    def encode(
        self, params: Params, frozen: Params, batch: Batch, *, key: Key
    ) -> dict[str, Float[Array, "B E"]]:
        """Embeds pictures and captions at unit length: `image`, `text` and, where paid, `patches`.

        See `TwoStage`.
        """
        del frozen, key
        out: Any = self.clip.apply(
            {"params": params}, self.pixels(batch["image"]), batch["ids"], method=_towers
        )
        image, patches, text = out
        found = {"image": image, "text": text}
        return {**found, "patches": patches} if self.patch_mean_weight else found

    def contrast(
        self, params: Params, embeddings: dict[str, Float[Array, "B E"]], batch: Batch
    ) -> tuple[Float[Array, ""], Metrics]:
        """Computes the loss and its metrics from embeddings; see `TwoStage`."""
        caption: Any = batch["caption"]
        scalars: Any = self.clip.apply({"params": params}, method=CLIP.scale_bias)
        scale, bias = scalars
        total, hits = self._pairs(embeddings["image"], embeddings["text"], scale, bias, caption)
        count = jnp.float32(caption.shape[0])
        metrics: Metrics = {
            "contrastive": (total * count, count),
            "retrieval": (hits, count),
            "logit_scale": (scale, jnp.float32(1.0)),
        }
        if self.patch_mean_weight:
            patches, text = embeddings["patches"], embeddings["text"]
            patch_loss, _ = self._pairs(patches, text, scale, bias, caption)
            total = total + self.patch_mean_weight * patch_loss
            metrics["patch_mean"] = (patch_loss * count, count)
        return total, metrics

    def _pairs(
        self, image: Any, text: Any, scale: Any, bias: Any, caption: Any
    ) -> tuple[Array, Array]:
        """Computes the loss over all pairs, and how many images find a text of theirs first."""
        if self.loss_block:
            ring = Ring(self.mesh, self.axes, self.loss_block)
            if self.loss_name == "sigmoid":
                return ring_sigmoid(image, text, scale, bias, caption, ring)
            return ring_softmax(image, text, scale, caption, ring)
        positive = same_caption(caption)
        if self.loss_name == "sigmoid":
            loss = sigmoid_contrastive(image, text, scale, bias, positive)
        else:
            loss = softmax_contrastive(image, text, scale, positive)
        best = jnp.argmax(image @ text.T, axis=1)
        hits = jnp.take_along_axis(positive, best[:, None], axis=1).sum()
        return loss, hits.astype(jnp.float32)

    def pictures(
        self, params: Params, frozen: Params, batch: Batch, *, key: Key
    ) -> dict[str, UInt8[Array, "n H W 3"]]:
        """Draws the cosines of images (down) and captions (across)."""
        return {"similarity": heat(self._cosines(params, frozen, batch, key))[None]}

    def histograms(
        self, params: Params, frozen: Params, batch: Batch, *, key: Key
    ) -> dict[str, Array]:
        """Collects cosines of images with captions: of matching pairs, and of others."""
        cosines = self._cosines(params, frozen, batch, key)
        positive: Any = same_caption(batch["caption"])
        return {
            "cosines/matching": jnp.where(positive, cosines, jnp.nan),
            "cosines/other": jnp.where(positive, jnp.nan, cosines),
        }

    def _cosines(self, params: Params, frozen: Params, batch: Batch, key: Key) -> Array:
        found: Any = self.encode(params, frozen, batch, key=key)
        return found["image"] @ found["text"].T

    def constrain(self, params: Params) -> Params:
        """Keeps the logit scale at 100 or less."""
        return {**params, "logit_scale": jnp.minimum(params["logit_scale"], MAX_LOGIT_SCALE)}

"""SegCLIP's training: image-text contrast, reconstruction from regions, superpixel agreement."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from openseg_jax.errors import expected
from openseg_jax.models.clip import normalize
from openseg_jax.models.grouping import Grouping, gumbel
from openseg_jax.models.grouping_start import start_from_tokens
from openseg_jax.models.preprocess import scale_pixels
from openseg_jax.models.segclip import Encoded, Masked, SegCLIP, init_params
from openseg_jax.models.variants import Preprocess
from openseg_jax.ops.losses import same_caption, softmax_contrastive
from openseg_jax.ops.masked_patches import kept_patches, mask_patches, patchify
from openseg_jax.ops.segclip_losses import masked_reconstruction, superpixel_kl
from openseg_jax.tasks.base import Batch, Metrics, Rules
from openseg_jax.tasks.pictures import painted
from openseg_jax.types import Array, Float, Int, Key, Params, UInt8
from openseg_jax.weights.segclip import start_from_clip

# What the published training leaves as CLIP had it.
FROZEN: Rules = (
    (r"text/(token|positional)_embedding", False),
    (r"visual/(class|positional)_embedding", False),
    (r"visual/(conv1|ln_pre)/.*", False),
    (r".*", True),
)
# Shares of the learning rate: CLIP's own lower blocks and text tower move a thousand times slower.
MULTIPLIER: Rules = ((r"visual/blocks/.*|text/.*|logit_scale", 1e-3), (r".*", 1.0))
WEIGHT_DECAY: Rules = ((r".*/bias", 0.0), (r".*", 0.05))
# Logits are never scaled by more than 100.
MAX_LOGIT_SCALE = float(np.log(100.0))


class Noise(NamedTuple):
    """All that is random in one evaluation of the loss.

    Attributes:
        assign: Gumbel noise of the assignment of all patches.
        hide: uniform noise that decides which patches the reconstruction hides.
        assign_seen: Gumbel noise of the assignment of the seen patches.
    """

    assign: Float[Array, "B G L"]
    hide: Float[Array, "B L"]
    assign_seen: Float[Array, "B G K"]


class Parts(NamedTuple):
    """What the losses were computed from, for tests and for looking at a model.

    Attributes:
        losses: each loss by name, before its weight.
        encoded: the image tower's output.
        image, text: unit-length embeddings. scale: of their cosines.
        masked: the reconstruction branch, None where it is off.
    """

    losses: dict[str, Float[Array, ""]]
    encoded: Encoded
    image: Float[Array, "B E"]
    text: Float[Array, "B E"]
    scale: Float[Array, ""]
    masked: Masked | None


@dataclasses.dataclass(frozen=True)
class SegClipTask:
    """Trains a SegCLIP on pictures with captions.

    A batch holds `image` UInt8[B H W 3] at the tower's size, `ids` Int32[B T], `caption` Int32[B]
    (a hash: pictures with equal captions are positives of one another) and, for the superpixel
    loss, `superpixels` Int32[B h w], one id a patch. The contrast runs over the whole batch, on
    however many devices it lies.

    Attributes:
        model: the model; `cross_batch_kv="torch18"` there reproduces the published training.
        preprocess: mean and std that scale the pixels.
        contrastive, reconstruction, superpixel: weights of the losses; 0 leaves one out and
            does not compute it.
        equal_captions: pictures with the same caption are positives. False takes them for
            negatives of one another, as the published loss does.
        clip: nested parameters of the CLIP to start from; None starts from nothing.
        gathered: UInt8[n H W 3], pictures whose tokens the group module starts from (see
            `models.grouping_start`); None draws it, as published.
        trainable: see `Task`; `FROZEN` is the published choice.
    """

    model: SegCLIP
    preprocess: Preprocess
    contrastive: float = 1.0
    reconstruction: float = 1.0
    superpixel: float = 1.0
    equal_captions: bool = True
    clip: Params | None = dataclasses.field(default=None, repr=False, compare=False)
    gathered: Any = dataclasses.field(default=None, repr=False, compare=False)
    trainable: Rules = FROZEN

    def __post_init__(self) -> None:
        weights = [getattr(self, name) for name in ("contrastive", "reconstruction", "superpixel")]
        if min(weights) < 0 or max(weights) == 0:
            raise expected(
                "contrastive, reconstruction, superpixel", "weights of 0 or more, not all 0",
                str(weights), "switch one on",
            )  # fmt: skip

    def init(self, key: Key, batch: Batch) -> tuple[Params, Params]:
        """Starts from `clip`, drawing what CLIP does not have; nothing is frozen apart."""
        del batch
        if self.clip is None:
            params = jax.jit(lambda key: init_params(self.looking, key))(key)
        else:
            start = start_from_clip(self.model.config, self.clip, key)
            logging.info("start from CLIP:\n%s", start.text())
            params = jax.tree.map(jnp.asarray, start.params)
        if self.gathered is not None:
            params = jax.jit(self._gather)(params, self.gathered, jax.random.fold_in(key, 1))
        return params, {}

    def _gather(self, params: Params, images: UInt8[Array, "n H W 3"], key: Key) -> Params:
        def enter(model: SegCLIP) -> Array:
            return model.visual.first(model.visual.embed(self.pixels(images)))

        tokens: Any = self.model.apply({"params": params}, method=enter)
        group = start_from_tokens(params["visual"]["group"], tokens, key)
        return {**params, "visual": {**params["visual"], "group": group}}

    @property
    def looking(self) -> SegCLIP:
        """The model as it is evaluated: each image by itself, however the training mixes them."""
        return self.model.clone(cross_batch_kv="per_image")

    def pixels(self, image: UInt8[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
        """Scales grey levels to what the image tower expects."""
        return scale_pixels(image, self.preprocess)

    def noise(self, key: Key, batch: int, grid: tuple[int, int]) -> Noise:
        """Draws all noise of one evaluation."""
        config, patches = self.model.config, grid[0] * grid[1]
        assign, hide, seen = jax.random.split(key, 3)
        kept = kept_patches(patches, config.mask_ratio)
        return Noise(
            gumbel(assign, (batch, config.centers, patches)),
            jax.random.uniform(hide, (batch, patches)),
            gumbel(seen, (batch, config.centers, kept)),
        )

    def parts(
        self,
        params: Params,
        pixels: Float[Array, "B H W 3"],
        ids: Int[Array, "B T"],
        positive: Any,
        superpixels: Int[Array, "B h w"] | None,
        noise: Noise,
    ) -> Parts:
        """Computes the losses that are switched on, with all noise given.

        Args:
            params: the model's.
            pixels: CLIP-normalised images.
            ids: token ids.
            positive: Bool[B B], True where caption j describes image i.
            superpixels: one id a patch; may be None where that loss is off.
            noise: see `Noise`.
        """

        def compute(model: SegCLIP) -> Parts:
            tokens = model.visual.embed(pixels)
            encoded = model.visual.encode(tokens, noise=noise.assign)
            image, text = normalize(encoded.image), normalize(model.encode_text(ids))
            scale, losses, masked = model.scale(), {}, None
            if self.contrastive:
                losses["contrastive"] = softmax_contrastive(image, text, scale, positive)
            if self.reconstruction:
                masking = mask_patches(noise.hide, model.config.mask_ratio)
                predicted, masked = model.reconstruct(
                    tokens, masking, model.grid(pixels), noise=noise.assign_seen
                )
                patches = patchify(pixels, model.config.clip.vision.patch_size)
                losses["reconstruction"] = masked_reconstruction(predicted, patches, masking.hidden)
            if self.superpixel:
                assert superpixels is not None
                segments = superpixels.reshape(superpixels.shape[0], -1)
                losses["superpixel"] = superpixel_kl(encoded.grouping.hard, segments)
            return Parts(losses, encoded, image, text, scale, masked)

        out: Any = self.model.apply({"params": params}, method=compute)
        return out

    def loss(
        self, params: Params, frozen: Params, batch: Batch, *, key: Key
    ) -> tuple[Float[Array, ""], Metrics]:
        """Computes the weighted sum of the losses, and each by itself."""
        del frozen
        pixels, caption = self.pixels(batch["image"]), batch["caption"]
        positive: Any = same_caption(caption)
        if not self.equal_captions:
            positive = jnp.eye(pixels.shape[0], dtype=bool)
        noise = self.noise(key, pixels.shape[0], self.model.grid(pixels))
        parts = self.parts(
            params, pixels, batch["ids"], positive, batch.get("superpixels"), noise
        )  # fmt: skip
        count = jnp.float32(pixels.shape[0])
        total = jnp.zeros((), jnp.float32)
        metrics: Metrics = {}
        for name, value in parts.losses.items():
            total = total + getattr(self, name) * value
            metrics[name] = (value * count, count)
        best = jnp.argmax(parts.image @ parts.text.T, axis=1)
        hits = jnp.take_along_axis(positive, best[:, None], axis=1).sum()
        used = (jax.lax.stop_gradient(parts.encoded.grouping.hard).sum(-1) > 0).sum()
        seen: dict[str, Any] = {
            "retrieval": (hits.astype(jnp.float32), count),
            "groups_used": (used.astype(jnp.float32), count),
            "logit_scale": (parts.scale, jnp.float32(1.0)),
        }
        return total, {**metrics, **seen}

    def _grouping(self, params: Params, batch: Batch) -> Grouping:
        def look(model: SegCLIP) -> Grouping:
            return model.encode_image(self.pixels(batch["image"])).grouping

        out: Any = self.looking.apply({"params": params}, method=look)
        return out

    def pictures(
        self, params: Params, frozen: Params, batch: Batch, *, key: Key
    ) -> dict[str, UInt8[Array, "n H W 3"]]:
        """Paints each patch in the colour of the centre that it goes to, without noise."""
        del frozen, key
        image: Any = batch["image"]
        centres = self._grouping(params, batch).soft.argmax(axis=1) + 1
        grid = self.model.grid(image)
        labels = centres.reshape(-1, *grid)
        return {"regions": painted(image, labels, self.model.config.centers)}

    def histograms(
        self, params: Params, frozen: Params, batch: Batch, *, key: Key
    ) -> dict[str, Array]:
        """Collects how the patches go to the centres.

        Returns:
            `assignment/largest`: each patch's weight for its own centre; `assignment/share`: each
            centre's share of an image's patches; `assignment/centre`: the centre of each patch.
        """
        del frozen, key
        soft = self._grouping(params, batch).soft
        chosen = soft.argmax(axis=1)
        hard = jax.nn.one_hot(chosen, soft.shape[1], dtype=jnp.float32)
        return {
            "assignment/largest": soft.max(axis=1),
            "assignment/share": hard.mean(axis=1),
            "assignment/centre": chosen,
        }

    def constrain(self, params: Params) -> Params:
        """Keeps the logit scale at 100 or less."""
        return {**params, "logit_scale": jnp.minimum(params["logit_scale"], MAX_LOGIT_SCALE)}

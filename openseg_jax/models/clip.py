"""CLIP: an image tower and a text tower that meet in one space."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from openseg_jax.models.last_block import LastBlock
from openseg_jax.models.text import TextTransformer
from openseg_jax.models.variants import CLIPConfig
from openseg_jax.models.vit import VisionTransformer
from openseg_jax.types import Array, Float, Int, Key, Params


def normalize(x: Float[Array, "... E"]) -> Float[Array, "... E"]:
    """Scales vectors to unit length in float32; a zero vector stays zero."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))


class CLIP(nn.Module):
    """Both towers with the logit scale.

    Use through `apply`, e.g. `clip.apply({"params": p}, image, method=CLIP.encode_image)`.

    Attributes:
        config: what the weights are.
        dtype: of the computation; parameters, norms, softmax and logits stay float32.
        scan: compile one block and loop over it; remat: trade compute for memory in training.
        backend: attention backend, see `ops.attention`.
    """

    config: CLIPConfig
    dtype: jnp.dtype = jnp.float32
    scan: bool = True
    remat: bool | str = "none"
    backend: str = "auto"

    def setup(self) -> None:
        c = self.config
        switches = (self.dtype, self.scan, self.remat, self.backend)
        self.visual = VisionTransformer(c.vision, c.embed_dim, *switches)
        self.text = TextTransformer(c.text, c.embed_dim, *switches)
        # exp(2.6593) = 1/0.07 for softmax losses; SigLIP starts at exp(2.3026) = 10.
        start = 2.302585 if c.logit_bias else 2.6592600
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(start), ())
        if c.logit_bias:
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(-10.0), ())

    def encode_image(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B E"]:
        """Encodes normalised images of any size, not scaled to unit length."""
        return self.visual(image)

    def encode_patches(
        self,
        image: Float[Array, "B H W 3"],
        *,
        blocks: int | None = None,
        project: bool = True,
        last: LastBlock | None = None,
    ) -> Float[Array, "B L E"]:
        """Returns dense patch tokens after any number of blocks; see VisionTransformer.tokens."""
        return self.visual.tokens(image, blocks=blocks, project=project, last=last)

    def encode_text(self, ids: Int[Array, "B T"]) -> Float[Array, "B E"]:
        """Encodes token ids, not scaled to unit length."""
        return self.text(ids)

    def scale_bias(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns what turns cosines into logits: exp(logit_scale) and the bias (0 for CLIP)."""
        bias = self.logit_bias if self.config.logit_bias else jnp.zeros((), jnp.float32)
        return jnp.exp(self.logit_scale), bias

    def __call__(
        self, image: Float[Array, "B H W 3"], ids: Int[Array, "C T"]
    ) -> tuple[Float[Array, "B E"], Float[Array, "C E"], Float[Array, ""], Float[Array, ""]]:
        """Returns unit-length image and text embeddings, the logit scale and the logit bias."""
        scale, bias = self.scale_bias()
        return normalize(self.visual(image)), normalize(self.text(ids)), scale, bias


def init_params(clip: CLIP, key: Key) -> Params:
    """Draws fresh float32 parameters for a CLIP; no image or text is needed."""
    c = clip.config
    image = jnp.zeros((1, c.vision.image_size, c.vision.image_size, 3), jnp.float32)
    ids = jnp.zeros((1, c.text.context), jnp.int32)
    return clip.init(key, image, ids)["params"]

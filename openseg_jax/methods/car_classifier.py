"""The mask classifier: prompted images against all alive texts.

Each prompted image is encoded once, whatever the number of templates; text embeddings come cached.

Source: car.md §5.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from openseg_jax.methods.car_config import CaRConfig
from openseg_jax.models.clip import normalize
from openseg_jax.models.layers import Block, block_params
from openseg_jax.models.variants import CLIPConfig
from openseg_jax.models.vit import VisionTransformer
from openseg_jax.ops.attention import attention
from openseg_jax.types import Array, Bool, Float, Params

__all__ = ["SHARPNESS", "Classifier", "scores", "template_probabilities"]

_ABSENT = -1e30
# Number of published templates: what their summed probabilities are sharpened by.
SHARPNESS = 15.0


@dataclasses.dataclass(frozen=True)
class Classifier:
    """The classifier's image tower for one architecture; its methods are pure.

    Attributes:
        clip: architecture of the classifier's weights.
        settings: of CaR.
        dtype: of the computation.
    """

    clip: CLIPConfig
    settings: CaRConfig
    dtype: Any

    def embed(self, params: Params, pixels: Float[Array, "K S S 3"]) -> Float[Array, "K E"]:
        """Encodes normalised prompted images to unit length.

        Args:
            params: of the image tower.
            pixels: squares of the weights' own size.
        """
        vision = self.clip.vision
        tower: Any = VisionTransformer(vision, self.clip.embed_dim, self.dtype)
        variables = {"params": params}
        x: Any = tower.apply(
            variables, pixels, method="embed", convention=self.settings.pos_resample,
            round_positions=self.settings.fp16_pos_embed,
        )  # fmt: skip
        x = tower.apply(variables, x, 0, vision.depth - 1, method="run")
        if not self.settings.skip_last_cls_block:
            x = self._last(tower, params, x)
        x = tower.apply(variables, x, method="pool")
        return normalize(tower.apply(variables, x, method="project"))

    def _last(self, tower: VisionTransformer, params: Params, x: Array) -> Array:
        block: Any = tower.block()
        p = {"params": block_params(params["blocks"], -1)}
        if self.clip.vision.pool != "class":
            return block.apply(p, x)
        # Only the class token leaves the last block: one query instead of all.
        a = block.apply(p, x, method=Block.normed)
        q, k, v = block.apply(p, a, method=Block.project_in)
        attended = attention(q[:, :1], k, v, backend="xla")
        return block.apply(p, x[:, :1], attended, method=Block.finish)


def template_probabilities(
    images: Float[Array, "K E"],
    texts: Float[Array, "S K E"],
    alive: Bool[Array, " K"],
    scale: Float[Array, ""],
) -> Float[Array, "S K K"]:
    """Computes, for each template, the softmax over alive texts of every image: row i, text j."""
    logits = scale * jnp.einsum("ie,sje->sij", images, texts, precision=lax.Precision.HIGHEST)
    p = jax.nn.softmax(jnp.where(alive, logits, _ABSENT), axis=-1)
    return jnp.where(alive, p, 0)


def scores(
    images: Float[Array, "K E"],
    texts: Float[Array, "S K E"],
    alive: Bool[Array, " K"],
    scale: Float[Array, ""],
    *,
    rule: str,
) -> tuple[Float[Array, " K"], Float[Array, "K K"]]:
    """Scores each prompted image with its own text, among the alive ones.

    Args:
        images, texts: unit length; image i was prompted for text i.
        alive: texts that take part.
        scale: exp of the weights' logit scale.
        rule: a score rule of `CaRConfig`, or "plain" for one softmax (one template).

    Returns:
        The diagonal, 0 for dead texts, and the whole matrix.
    """

    def add(total: Array, one: Array) -> tuple[Array, None]:
        return total + template_probabilities(images, one[None], alive, scale)[0], None

    count = texts.shape[0]
    start = jnp.zeros((images.shape[0],) * 2, jnp.float32)
    total, _ = lax.scan(add, start, texts)
    if rule in ("mean", "plain"):
        matrix = total / count
    else:
        sharp = total if rule == "sum" else total * (SHARPNESS / count)
        matrix = jax.nn.softmax(jnp.where(alive, sharp, _ABSENT), axis=-1)
    matrix = jnp.where(alive & alive[:, None], matrix, 0)
    return jnp.diagonal(matrix), matrix

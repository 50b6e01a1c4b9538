"""Mask2Former's masked-attention decoder: learnt queries become masks and class embeddings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from openseg_jax.models.layers import Attention, LayerNorm
from openseg_jax.ops.posembed import sine_positions
from openseg_jax.ops.resize import resize
from openseg_jax.types import Array, Float

EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class MaskDecoderConfig:
    """Sizes of the decoder; the defaults are the published ones (MAFT, ViT-B).

    Attributes:
        width: D of queries and maps.
        mask_width: channels of the mask features.
        queries: M, masks proposed for each image.
        layers: 10 in the published generator; Mask2Former's own models have 9.
        heads, ffn: of each layer.
        levels: how many maps the layers take in turn.
        class_dim: of the class embedding: E, or the number of logits of a closed vocabulary.
        class_hidden: width between the two linear maps of the class head; None for a single one.
    """

    width: int = 256
    mask_width: int = 256
    queries: int = 100
    layers: int = 10
    heads: int = 8
    ffn: int = 2048
    levels: int = 3
    class_dim: int = 512
    class_hidden: int | None = 1024


class MlpHead(nn.Module):
    """Linear maps with ReLU between."""

    widths: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... E"]:
        for index, width in enumerate(self.widths):
            x = nn.Dense(width, dtype=self.dtype, name=f"layers_{index}")(
                nn.relu(x) if index else x
            )
        return x


class DecoderLayer(nn.Module):
    """A post-norm layer: masked attention to one map, attention among queries, then an MLP."""

    config: MaskDecoderConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B M D"],
        query_positions: Float[Array, "M D"],
        keys: Float[Array, "B L D"],
        values: Float[Array, "B L D"],
        mask: Array,
    ) -> Float[Array, "B M D"]:
        c = self.config
        cross = Attention(c.width, c.heads, self.dtype, name="cross_attn")
        y = cross(x + query_positions, keys, mask[:, None], values)
        x = LayerNorm(EPS, name="cross_norm")(x + y)
        among = Attention(c.width, c.heads, self.dtype, name="self_attn")
        placed = x + query_positions
        x = LayerNorm(EPS, name="self_norm")(x + among(placed, placed, None, x))
        y = MlpHead((c.ffn, c.width), self.dtype, name="ffn")(x)
        return LayerNorm(EPS, name="ffn_norm")(x + y)


class MaskDecoder(nn.Module):
    """Proposes masks from the pixel decoder's maps.

    Attributes:
        config: sizes.
        dtype: of the computation; normalisations and softmax are in float32, and masks come out in
            float32.
    """

    config: MaskDecoderConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        c = self.config
        normal = nn.initializers.normal(1.0)
        self.query_feat = self.param("query_feat", normal, (c.queries, c.width))
        self.query_embed = self.param("query_embed", normal, (c.queries, c.width))
        self.level_embed = self.param("level_embed", normal, (c.levels, c.width))
        self.layers = [DecoderLayer(c, self.dtype) for _ in range(c.layers)]
        self.decoder_norm = LayerNorm(EPS)
        self.mask_embed = MlpHead((c.width, c.width, c.mask_width), self.dtype)
        hidden = () if c.class_hidden is None else (c.class_hidden,)
        self.class_embed = MlpHead((*hidden, c.class_dim), self.dtype)

    def __call__(
        self, maps: Sequence[Float[Array, "B h w D"]], mask_features: Float[Array, "B h w D"]
    ) -> dict[str, list[Array]]:
        """Decodes.

        Args:
            maps: from coarse to fine; layer i takes map i mod `levels`.
            mask_features: at stride 4.

        Returns:
            "masks", a list of `layers` + 1 logits Float32[B M h w] at the mask features' size, and
            "class_embed", as many Float[B M `class_dim`]. Item 0 is what the queries propose before
            the first layer; the last item is the result. Under `jax.jit` those that are not
            used are not computed.
        """
        c = self.config
        batch = mask_features.shape[0]
        keys, values, small = [], [], []
        for level, x in enumerate(maps):
            h, w = x.shape[1:3]
            value = x.astype(self.dtype) + self.level_embed[level].astype(self.dtype)
            place = jnp.asarray(sine_positions(h, w, c.width), self.dtype)
            values.append(value.reshape(batch, h * w, c.width))
            keys.append((value + place).reshape(batch, h * w, c.width))
            # Resizing is linear: the masks at this level's size come from smaller features, and
            # never exist at stride 4 unless somebody asks for them.
            small.append(resize(mask_features, (h, w), axes=(-3, -2)))
        x = jnp.broadcast_to(self.query_feat.astype(self.dtype), (batch, c.queries, c.width))
        places = self.query_embed.astype(self.dtype)
        out: dict[str, list[Array]] = {"masks": [], "class_embed": []}
        embed = self._predict(x, mask_features, out)
        for index, layer in enumerate(self.layers):
            level = index % len(values)
            mask = _admitted(embed, small[level])
            x = layer(x, places, keys[level], values[level], mask)
            embed = self._predict(x, mask_features, out)
        return out

    def _predict(self, x: Array, features: Array, out: dict[str, list[Array]]) -> Array:
        """Appends the predictions of queries `x`, and returns their mask embeddings."""
        y = self.decoder_norm(x)
        embed = self.mask_embed(y)
        out["masks"].append(_masks(embed, features))
        out["class_embed"].append(self.class_embed(y))
        return embed


def _masks(embed: Array, features: Array) -> Float[Array, "B M h w"]:
    return jnp.einsum("bmd,bhwd->bmhw", embed, features, preferred_element_type=jnp.float32)


def _admitted(embed: Array, features: Array) -> Array:
    """Says which cells a query may attend to: where its mask is at least ½, or all if nowhere."""
    logits = _masks(embed, features.astype(embed.dtype))
    inside = (logits >= 0).reshape(*logits.shape[:2], -1)
    return inside | ~inside.any(axis=-1, keepdims=True)

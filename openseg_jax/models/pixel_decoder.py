"""Mask2Former's pixel decoder: a deformable encoder over three scales, and one FPN step.

Parameters carry the names of the published checkpoints where those name a layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from openseg_jax.errors import UserError
from openseg_jax.models.layers import LayerNorm
from openseg_jax.ops.deformable import deformable_attention, query_centres
from openseg_jax.ops.posembed import sine_positions
from openseg_jax.ops.resize import resize
from openseg_jax.types import Array, Float

EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class PixelDecoderConfig:
    """Sizes of the pixel decoder; the defaults are the published ones.

    Attributes:
        width: D of all maps inside.
        mask_width: channels of the mask features.
        layers, heads, points, ffn: of the deformable encoder; points are per map and head.
        levels: how many of the coarsest maps enter the encoder.
        groups: of the group normalisations.
        dropout: probability, in training only.
    """

    width: int = 256
    mask_width: int = 256
    layers: int = 6
    heads: int = 8
    points: int = 4
    ffn: int = 1024
    levels: int = 3
    groups: int = 32
    dropout: float = 0.1


class ConvNorm(nn.Module):
    """A convolution, then a group normalisation in float32."""

    width: int
    kernel: int
    groups: int
    use_bias: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w _"]) -> Float[Array, "B h w D"]:
        pad = self.kernel // 2
        x = nn.Conv(
            self.width, (self.kernel, self.kernel), padding=pad, use_bias=self.use_bias,
            dtype=self.dtype, name="conv",
        )(x)  # fmt: skip
        # The two-pass variance, as everywhere: see models.layers.LayerNorm.
        norm = nn.GroupNorm(self.groups, epsilon=EPS, use_fast_variance=False, name="norm")
        return norm(x.astype(jnp.float32)).astype(self.dtype)


class DeformableAttention(nn.Module):
    """Attends each cell to a few learnt points around its own place, in every map."""

    config: PixelDecoderConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "B L D"],
        value: Float[Array, "B L D"],
        sizes: Sequence[tuple[int, int]],
    ) -> Float[Array, "B L D"]:
        c = self.config
        batch, length, _ = query.shape
        maps = len(sizes)
        value = nn.Dense(c.width, name="value_proj", dtype=self.dtype)(value)
        value = value.reshape(batch, length, c.heads, c.width // c.heads)
        offsets = nn.Dense(
            c.heads * maps * c.points * 2, name="sampling_offsets",
            kernel_init=nn.initializers.zeros, bias_init=_ring(c.heads, maps, c.points),
            dtype=self.dtype,
        )(query)  # fmt: skip
        weights = nn.Dense(
            c.heads * maps * c.points, name="attention_weights",
            kernel_init=nn.initializers.zeros, dtype=self.dtype,
        )(query)  # fmt: skip
        weights = weights.reshape(batch, length, c.heads, maps * c.points).astype(jnp.float32)
        weights = jax.nn.softmax(weights).reshape(batch, length, c.heads, maps, c.points)
        offsets = offsets.reshape(batch, length, c.heads, maps, c.points, 2).astype(jnp.float32)
        # Offsets count cells of the map that they point into.
        scale = jnp.asarray([(w, h) for h, w in sizes], jnp.float32)[:, None]
        locations = query_centres(sizes)[:, None, None, None] + offsets / scale
        out = deformable_attention(value, sizes, locations, weights)
        return nn.Dense(c.width, name="output_proj", dtype=self.dtype)(
            out.reshape(batch, length, c.width)
        )


def _ring(heads: int, maps: int, points: int) -> nn.initializers.Initializer:
    """Starts head k's points on a ray at angle 2πk/heads, 1, 2, … cells away, as published."""

    def init(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
        del key
        angle = 2 * jnp.pi * jnp.arange(heads) / heads
        ray = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        ray = ray / jnp.abs(ray).max(axis=-1, keepdims=True)
        steps = jnp.arange(1, points + 1)
        ring = ray[:, None, None] * steps[:, None]
        return jnp.broadcast_to(ring, (heads, maps, points, 2)).reshape(shape).astype(dtype)

    return init


class EncoderLayer(nn.Module):
    """A post-norm layer: x = LN(x + attn(x + pos)); x = LN(x + ffn(x))."""

    config: PixelDecoderConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        positions: Float[Array, "#B L D"],
        sizes: Sequence[tuple[int, int]],
        *,
        train: bool = False,
    ) -> Float[Array, "B L D"]:
        c = self.config

        def drop(y: Array) -> Array:
            return nn.Dropout(c.dropout, deterministic=not train)(y)

        attention = DeformableAttention(c, self.dtype, name="self_attn")
        x = LayerNorm(EPS, name="norm1")(x + drop(attention(x + positions, x, sizes)))
        y = drop(nn.relu(nn.Dense(c.ffn, dtype=self.dtype, name="linear1")(x)))
        y = drop(nn.Dense(c.width, dtype=self.dtype, name="linear2")(y))
        return LayerNorm(EPS, name="norm2")(x + y)


class PixelDecoder(nn.Module):
    """Turns a backbone's maps into three maps for the queries and one for the masks.

    Attributes:
        config: sizes.
        dtype: of the computation; normalisations, sampling and softmax are in float32.
    """

    config: PixelDecoderConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, features: Sequence[Float[Array, "B h w _"]], *, train: bool = False
    ) -> tuple[Float[Array, "B h w D"], tuple[Float[Array, "B h w D"], ...]]:
        """Decodes.

        Args:
            features: the backbone's maps from fine to coarse, at strides 4, 8, 16 and 32.
            train: whether to drop out; needs the rng "dropout".

        Returns:
            The mask features at stride 4, and the encoder's maps from coarse to fine (32, 16, 8).

        Raises:
            UserError: for another number of maps than one more than the encoder takes.
        """
        c = self.config
        if len(features) != c.levels + 1:
            raise UserError(
                f"features: expected {c.levels + 1} maps from fine to coarse, got {len(features)};"
                " give the backbone's res2 to res5"
            )
        coarse_first = [x.astype(self.dtype) for x in features[:0:-1]]
        level_embed = self.param("level_embed", nn.initializers.normal(1.0), (c.levels, c.width))
        sizes, tokens, positions = [], [], []
        for level, x in enumerate(coarse_first):
            project = ConvNorm(c.width, 1, c.groups, True, self.dtype, name=f"input_proj_{level}")
            h, w = x.shape[1:3]
            sizes.append((h, w))
            tokens.append(project(x).reshape(x.shape[0], h * w, c.width))
            place = jnp.asarray(sine_positions(h, w, c.width)).reshape(1, h * w, c.width)
            positions.append((place + level_embed[level]).astype(self.dtype))
        x, place = jnp.concatenate(tokens, axis=1), jnp.concatenate(positions, axis=1)
        for index in range(c.layers):
            x = EncoderLayer(c, self.dtype, name=f"layers_{index}")(x, place, sizes, train=train)
        maps, start = [], 0
        for h, w in sizes:
            maps.append(x[:, start : start + h * w].reshape(-1, h, w, c.width))
            start += h * w

        fine = features[0].astype(self.dtype)
        y = ConvNorm(c.width, 1, c.groups, False, self.dtype, name="adapter_1")(fine)
        y = y + resize(maps[-1], y.shape[1:3], axes=(-3, -2)).astype(self.dtype)
        y = nn.relu(ConvNorm(c.width, 3, c.groups, False, self.dtype, name="layer_1")(y))
        masks = nn.Conv(c.mask_width, (1, 1), dtype=self.dtype, name="mask_features")(y)
        return masks, tuple(maps)

"""Swin transformer: attention within windows that shift from block to block."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.models.layers import ACTIVATION, LayerNorm
from openseg_jax.types import Array, Bool, Float

# Of the normalisations beside a block's own two.
EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class SwinConfig:
    """Sizes and conventions; the defaults are Swin-T's.

    Attributes:
        width: channels of the first stage; they double from stage to stage.
        depths, heads: of each stage.
        window: cells a side.
        patch: pixels a side of a cell of the first stage.
        mlp_ratio: hidden width of a block's MLP over its width.
        act: a key of `models.layers.ACTIVATION`.
        eps: of the blocks' normalisations.
    """

    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    patch: int = 4
    mlp_ratio: float = 4.0
    act: str = "gelu"
    eps: float = 1e-5


def _relative_index(window: int) -> np.ndarray:
    """Returns which row of the bias table each pair of a window's cells takes, int[w² w²]."""
    at = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij"), -1)
    at = at.reshape(-1, 2)
    apart = at[:, None] - at[None] + window - 1
    return apart[..., 0] * (2 * window - 1) + apart[..., 1]


def _together(height: int, width: int, window: int, shift: int) -> Bool[np.ndarray, "G w w"]:
    """Says which cells of each shifted window were neighbours before the map was rolled."""

    def region(length: int) -> np.ndarray:
        at = np.arange(length)
        return (at >= length - window).astype(int) + (at >= length - shift)

    regions = region(height)[:, None] * 3 + region(width)
    regions = regions.reshape(height // window, window, width // window, window)
    regions = regions.transpose(0, 2, 1, 3).reshape(-1, window * window)
    return regions[:, :, None] == regions[:, None]


class WindowAttention(nn.Module):
    """Multi-head attention within each window, with a learnt bias for each relative place."""

    heads: int
    window: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B G n D"], together: Bool[np.ndarray, "G n n"] | None
    ) -> Float[Array, "B G n D"]:
        width, each = x.shape[-1], x.shape[-1] // self.heads
        q, k, v = (
            nn.Dense(width, dtype=self.dtype, name=name)(x).reshape(*x.shape[:3], self.heads, each)
            for name in ("query", "key", "value")
        )
        shape = ((2 * self.window - 1) ** 2, self.heads)
        table = self.param("bias_table", nn.initializers.zeros, shape)
        bias = table[_relative_index(self.window)].transpose(2, 0, 1)
        logits = jnp.einsum("bgnad,bgmad->bganm", q, k, preferred_element_type=jnp.float32)
        logits = logits * each**-0.5 + bias
        if together is not None:
            # −100 as in the published code, not −∞: a difference of e⁻¹⁰⁰ at most.
            logits = jnp.where(together[:, None], logits, logits - 100.0)
        weights = jax.nn.softmax(logits).astype(self.dtype)
        out = jnp.einsum("bganm,bgmad->bgnad", weights, v).reshape(x.shape)
        return nn.Dense(width, dtype=self.dtype, name="out")(out)


class SwinBlock(nn.Module):
    """A pre-norm block; odd blocks of a stage shift their windows by half."""

    config: SwinConfig
    heads: int
    shift: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        c, window, shift = self.config, self.config.window, self.shift
        batch, h, w, width = x.shape
        y = LayerNorm(c.eps, name="layernorm_before")(x)
        # Padding takes part in the attention, as published.
        high, wide = h + -h % window, w + -w % window
        y = jnp.pad(y, ((0, 0), (0, high - h), (0, wide - w), (0, 0)))
        y = jnp.roll(y, (-shift, -shift), (1, 2)) if shift else y
        y = y.reshape(batch, high // window, window, wide // window, window, width)
        y = y.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, window * window, width)
        together = _together(high, wide, window, shift) if shift else None
        y = WindowAttention(self.heads, window, self.dtype, name="attn")(y, together)
        y = y.reshape(batch, high // window, wide // window, window, window, width)
        y = y.transpose(0, 1, 3, 2, 4, 5).reshape(batch, high, wide, width)
        y = jnp.roll(y, (shift, shift), (1, 2)) if shift else y
        x = x + y[:, :h, :w]
        y = LayerNorm(c.eps, name="layernorm_after")(x)
        y = nn.Dense(int(c.mlp_ratio * width), dtype=self.dtype, name="fc1")(y)
        return x + nn.Dense(width, dtype=self.dtype, name="fc2")(ACTIVATION[c.act](y))


class Swin(nn.Module):
    """Computes normalised maps at strides 4, 8, 16 and 32."""

    config: SwinConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> list[Float[Array, "B h w _"]]:
        c = self.config
        sides = (-x.shape[1] % c.patch, -x.shape[2] % c.patch)
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (0, sides[0]), (0, sides[1]), (0, 0)))
        patch = (c.patch, c.patch)
        x = nn.Conv(c.width, patch, patch, padding="VALID", dtype=self.dtype, name="patch")(x)
        x = LayerNorm(EPS, name="patch_norm")(x)
        maps = []
        for stage, (depth, heads) in enumerate(zip(c.depths, c.heads, strict=True)):
            if stage:
                x = self._merge(x, f"merge{stage}")
            for i in range(depth):
                shift = c.window // 2 if i % 2 else 0
                x = SwinBlock(c, heads, shift, self.dtype, name=f"stage{stage + 1}_{i}")(x)
            maps.append(LayerNorm(EPS, name=f"norm{stage + 1}")(x))
        return maps

    def _merge(self, x: Float[Array, "B h w D"], name: str) -> Float[Array, "B h w D"]:
        """Halves the map: four neighbours become one cell of twice the width."""
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        width = x.shape[-1]
        x = jnp.concatenate([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], axis=-1)
        x = LayerNorm(EPS, name=f"{name}_norm")(x)
        return nn.Dense(2 * width, use_bias=False, dtype=self.dtype, name=name)(x)

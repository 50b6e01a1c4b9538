"""FreeSeg's text interaction: image maps look at the class names before anything is proposed."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from openseg_jax.models.layers import LayerNorm
from openseg_jax.types import Array, Bool, Float

EPS = 1e-5
_MASKED = -1e30


@dataclasses.dataclass(frozen=True)
class InteractionConfig:
    """Sizes of the text interaction; the defaults are the published ones for ViT-B.

    Attributes:
        text_dim: E of the text rows (512; 768 with ViT-L).
        inner: width of queries, keys and values over all heads.
        heads: of the attention.
        dropout: probability on attention weights, in training only.
        gamma: what the residual scale starts from.
    """

    text_dim: int = 512
    inner: int = 2048
    heads: int = 8
    dropout: float = 0.1
    gamma: float = 0.1


class _Kernels(nn.Module):
    """A linear map that hands out its numbers, to be folded into others."""

    width: int
    outputs: int

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "D F"], Float[Array, "F"]]:
        shape = (self.width, self.outputs)
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), shape)
        return kernel, self.param("bias", nn.initializers.zeros, (self.outputs,))


class TextInteraction(nn.Module):
    """Applies y = q + γ·attention(q, text), q = LN(x), to one map after another.

    Weights are shared by all maps. The text rows are normalised once more before each map, and
    the next map takes them as the last one left them: the published code does so, and its weights
    are trained with it. The residual is q, not x.

    The inner width is eight times that of a map, so projecting every cell to it is what would cost.
    Queries meet keys only in products, so the query map is folded into the keys and the output map
    into the values: the same numbers but for rounding, and less than half of the work for 171
    classes.
    """

    config: InteractionConfig
    width: int
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        c = self.config
        self.layer_norm_q_1 = LayerNorm(EPS)
        self.layer_norm_k_1 = LayerNorm(EPS)
        self.q_proj = _Kernels(self.width, c.inner)
        self.k_proj = _Kernels(c.text_dim, c.inner)
        self.v_proj = _Kernels(c.text_dim, c.inner)
        self.out_proj = _Kernels(c.inner, self.width)
        self.gamma = self.param("gamma", nn.initializers.constant(c.gamma), (self.width,))

    def __call__(
        self,
        maps: list[Float[Array, "B h w D"]],
        text: Float[Array, "C E"] | Float[Array, "B C E"],
        text_valid: Bool[Array, "..."] | None = None,
        *,
        train: bool = False,
    ) -> list[Float[Array, "B h w D"]]:
        """Conditions maps on text rows.

        Args:
            maps: in the published order: strides 32, 16, 8, then the mask features.
            text: unit rows, for all images or for each; the non-object row is one of them.
            text_valid: Bool of the shape of `text` without E; False rows are padding.
            train: whether to drop out; needs the rng "dropout".

        Returns:
            The conditioned maps, in the same order.
        """
        batch = maps[0].shape[0]
        text = jnp.broadcast_to(text, (batch, *text.shape[-2:])).astype(jnp.float32)
        if text_valid is not None:
            text_valid = jnp.broadcast_to(text_valid, text.shape[:2])
        out = []
        for x in maps:
            text = self.layer_norm_k_1(text)
            out.append(self._attend(x, text, text_valid, train=train))
        return out

    def _attend(
        self, x: Array, text: Array, valid: Array | None, *, train: bool
    ) -> Float[Array, "B h w D"]:
        c = self.config
        batch, heads, each = x.shape[0], c.heads, c.inner // c.heads
        q = self.layer_norm_q_1(x).reshape(batch, -1, self.width)

        def per_head(y: Array) -> Array:
            return y.reshape(*y.shape[:-1], heads, each)

        (wq, bq), (wk, bk), (wv, bv) = self.q_proj(), self.k_proj(), self.v_proj()
        wo, bo = self.out_proj()
        keys = per_head(text @ wk + bk) * each**-0.5
        values = per_head(text @ wv + bv)
        shift = jnp.einsum("bcai,ai->abc", keys, per_head(bq))
        if valid is not None:
            shift = jnp.where(valid, shift, _MASKED)
        keys = jnp.einsum("bcai,dai->abdc", keys, per_head(wq)).astype(self.dtype)
        values = jnp.einsum("bcai,aid->abcd", values, wo.reshape(heads, each, -1))
        values = values.astype(self.dtype)
        drop = train and c.dropout > 0
        keep = jax.random.split(self.make_rng("dropout"), heads) if drop else None

        def one(total: Array, head: tuple[Array, ...]) -> tuple[Array, None]:
            key, value, add, *rng = head
            logits = jnp.matmul(q, key, preferred_element_type=jnp.float32) + add[:, None]
            weights = jax.nn.softmax(logits)
            if rng:
                kept = jax.random.bernoulli(rng[0], 1 - c.dropout, weights.shape)
                weights = jnp.where(kept, weights / (1 - c.dropout), 0)
            weights = weights.astype(self.dtype)
            return total + jnp.matmul(weights, value, preferred_element_type=jnp.float32), None

        # One head at a time: with 847 classes the logits of all would take 0.7 GB an image. They
        # are computed again in the backward pass rather than kept.
        per = (keys, values, shift) + (() if keep is None else (keep,))
        total = jnp.zeros(q.shape, jnp.float32)
        total, _ = jax.lax.scan(jax.checkpoint(one) if train else one, total, per)
        y = q + self.gamma * (total + bo)
        return y.reshape(x.shape).astype(x.dtype)

"""The semantic group module: learnable centres gather the patches of an image into regions.

Centres look at the image through a few cross-attention blocks, then every patch picks the centre
that its key agrees with most, and the values of a centre's patches are averaged.

Source: Luo et al., "SegCLIP: Patch Aggregation with Learnable Centers for Open-Vocabulary Semantic
Segmentation", ICML 2023, section 3.2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from openseg_jax.errors import UserError, unknown_name
from openseg_jax.models.layers import ACTIVATION, LayerNorm, Mlp, block_params, quick_gelu
from openseg_jax.types import Array, Float, Key, Params

CROSS_BATCH_KV = ("per_image", "torch18")
# The published initialisation of everything that CLIP does not have.
NEW_KERNEL = nn.initializers.normal(0.02)


class Grouping(NamedTuple):
    """What the module says of a batch of images.

    Attributes:
        regions: one vector a centre.
        hard: 0 or 1, each patch's one centre; carries the straight-through gradient.
        soft: softmax over the centres without noise; each patch's column sums to 1.
        centers: the centres after they saw the image.
        logits: agreement of centre and patch, before the softmax and without noise.
    """

    regions: Float[Array, "B G D"]
    hard: Float[Array, "B G L"]
    soft: Float[Array, "B G L"]
    centers: Float[Array, "B G D"]
    logits: Float[Array, "B G L"]


def gumbel(key: Key, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Draws standard Gumbel noise in float32."""
    return jax.random.gumbel(key, shape, jnp.float32)


def assign(
    logits: Float[Array, "B G L"],
    noise: Float[Array, "B G L"] | None = None,
    *,
    temperature: float,
) -> Float[Array, "B G L"]:
    """Gives every patch to one centre, with the straight-through gradient of the softmax.

    onehot(argmax y) − stop_gradient(y) + y with y = softmax((logits + noise) / temperature) over
    the centres; without noise the temperature does not act either. In float32 the values are
    exactly 0 and 1.

    Args:
        logits: float32.
        noise: Gumbel noise for training; None for evaluation.
        temperature: of the noisy softmax.
    """
    if noise is not None:
        logits = (logits + noise) / temperature
    soft = jax.nn.softmax(logits, axis=1)
    hard = jax.nn.one_hot(logits.argmax(axis=1), logits.shape[1], axis=1, dtype=soft.dtype)
    return hard - jax.lax.stop_gradient(soft) + soft


def pool_groups(
    hard: Float[Array, "B G L"], values: Float[Array, "B L D"]
) -> Float[Array, "B G D"]:
    """Averages the values of each centre's patches; a centre without patches gets zeros.

    The gradient of the mean's denominator passes where it is 1 or more. `jnp.maximum` would halve
    it for groups of exactly one patch, where torch's clamp passes it whole.
    """
    count = hard.sum(axis=-1, keepdims=True)
    total = jnp.einsum(
        "bgl,bld->bgd", hard.astype(values.dtype), values, preferred_element_type=jnp.float32
    )
    return total / jnp.where(count >= 1, count, 1.0)


def scramble(x: Float[Array, "B N D"], images: int) -> Float[Array, "B N D"]:
    """Mixes the tokens of a batch as the published code does under the torch it is pinned to.

    There a batch-first array meets an attention that expects the sequence first, and the memory
    of [B N D] is read as [N B D]: token n of image b is token f % N of image f // N, f = n·B + b.

    Args:
        x: tokens of a batch.
        images: that were scrambled together, one device's part of the batch; divides B.

    Raises:
        UserError: when `images` does not divide the batch.
    """
    batch, tokens, width = x.shape
    if batch % images:
        raise UserError(
            f"scramble_images: expected a divisor of the batch of {batch}, got {images}; "
            "give the images that one device holds"
        )
    x = x.reshape(batch // images, tokens, images, width).swapaxes(1, 2)
    return x.reshape(batch, tokens, width)


class _Linear(nn.Module):
    """Holds a linear map's parameters for callers that reorder its products."""

    width: int

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "D D"], Float[Array, " D"]]:
        kernel = self.param("kernel", NEW_KERNEL, (self.width, self.width))
        return kernel, self.param("bias", nn.initializers.zeros, (self.width,))


class CenterAttention(nn.Module):
    """Attention of a few centres to many tokens, with the keys and values never computed.

    softmax(q·(x Wk)ᵀ) (x Wv) = softmax((q Wkᵀ)·xᵀ) x Wv: with 8 centres for 200 tokens, applying
    both maps on the side of the centres is a sixth of the work. The key's bias adds the same to
    all logits of a query, which the softmax drops; the parameter is there for the checkpoints.
    """

    width: int
    heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B G D"], kv: Float[Array, "B S D"]
    ) -> Float[Array, "B G D"]:
        w, heads, part = self.width, self.heads, self.width // self.heads
        # Packed in the original and drawn as one matrix of three times the width.
        bound = nn.initializers.uniform(2 * (6.0 / (4 * w)) ** 0.5)

        def xavier(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
            return bound(key, shape, dtype) - (6.0 / (4 * w)) ** 0.5

        query = nn.Dense(w, dtype=self.dtype, kernel_init=xavier, name="query")
        (key_kernel, _), (value_kernel, value_bias) = (
            _Linear(w, name=name)() for name in ("key", "value")
        )
        q = query(x).reshape(*x.shape[:2], heads, part)
        to_key = key_kernel.reshape(w, heads, part).astype(self.dtype)
        q = jnp.einsum("bgad,wad->bgaw", q, to_key)
        logits = jnp.einsum("bgaw,bsw->bgas", q, kv, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits * part**-0.5, axis=-1).astype(self.dtype)
        seen = jnp.einsum("bgas,bsw->bgaw", weights, kv)
        to_value = value_kernel.reshape(w, heads, part).astype(self.dtype)
        out = jnp.einsum("bgaw,wad->bgad", seen, to_value).reshape(x.shape)
        out = out + value_bias.astype(self.dtype)
        return nn.Dense(w, dtype=self.dtype, kernel_init=NEW_KERNEL, name="out")(out)


class CrossBlock(nn.Module):
    """A pre-norm block in which centres attend to themselves and to all patches."""

    width: int
    heads: int
    eps: float
    dtype: jnp.dtype = jnp.float32
    scrambled: int = 0

    @nn.compact
    def __call__(
        self, centers: Float[Array, "B G D"], patches: Float[Array, "B L D"]
    ) -> Float[Array, "B G D"]:
        kv = LayerNorm(self.eps, name="ln_k")(jnp.concatenate([centers, patches], axis=1))
        if self.scrambled:
            kv = scramble(kv, self.scrambled)
        x = LayerNorm(self.eps, name="ln_x")(centers)
        attention = CenterAttention(self.width, self.heads, self.dtype, name="attn")
        centers = centers + attention(x, kv)
        x = LayerNorm(self.eps, name="ln_2")(centers)
        mlp = Mlp(self.width, 4 * self.width, "quick_gelu", self.dtype, NEW_KERNEL, name="mlp")
        return centers + mlp(x)


class HeadwiseDense(nn.Module):
    """A linear map within each head's channels: a grouped 1×1 convolution without bias."""

    heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        part = x.shape[-1] // self.heads
        edge = part**-0.5

        def uniform(key: Key, shape: tuple[int, ...]) -> Array:
            return jax.random.uniform(key, shape, jnp.float32, -edge, edge)

        kernel = self.param("kernel", uniform, (self.heads, part, part)).astype(self.dtype)
        split = x.reshape(*x.shape[:-1], self.heads, part)
        return jnp.einsum("blai,aio->blao", split, kernel).reshape(x.shape)


class Regions(nn.Module):
    """The output map of the regions: norm, MLP, and one more activation; no residual."""

    width: int
    eps: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B G D"]) -> Float[Array, "B G D"]:
        x = LayerNorm(self.eps, name="ln")(x)
        x = Mlp(self.width, 4 * self.width, "gelu", self.dtype, NEW_KERNEL, name="mlp")(x)
        return quick_gelu(x)


class GroupModule(nn.Module):
    """The semantic group module.

    Attributes:
        width: D. heads: of the cross attention and of the key and value maps.
        centers: G, how many regions an image has at most.
        cross_layers: cross-attention blocks.
        eps: of every LayerNorm.
        temperature: of the noisy softmax.
        cross_batch_kv: "per_image": centres see their own image. "torch18": they see the tokens
            of the whole batch scrambled, as the published code trains (see `scramble`).
        scramble_images: for "torch18": images scrambled together; 0 means the whole batch.
        dtype: of the computation; logits and softmax are float32.
        scan: one compiled body for all cross-attention blocks.
    """

    width: int
    heads: int
    centers: int
    cross_layers: int
    eps: float
    temperature: float = 0.9
    cross_batch_kv: str = "per_image"
    scramble_images: int = 0
    dtype: jnp.dtype = jnp.float32
    scan: bool = True

    def setup(self) -> None:
        if self.cross_batch_kv not in CROSS_BATCH_KV:
            unknown_name(self.cross_batch_kv, CROSS_BATCH_KV, "cross_batch_kv")
        shape = (self.centers, self.width)
        self.center_embedding = self.param("center_embedding", NEW_KERNEL, shape)
        self.norm = LayerNorm(self.eps)
        self.cross = self.param("cross", self._init_cross)
        self.cross_ln = LayerNorm(self.eps)
        self.key = HeadwiseDense(self.heads, self.dtype)
        self.key_ln = LayerNorm(self.eps)
        self.value = HeadwiseDense(self.heads, self.dtype)
        self.proj = Regions(self.width, self.eps, self.dtype)

    def _block(self, scrambled: int = 0) -> CrossBlock:
        return CrossBlock(
            self.width, self.heads, self.eps, self.dtype, scrambled, parent=None
        )  # fmt: skip

    def _init_cross(self, key: Key) -> Params:
        x = jnp.zeros((1, 1, self.width), jnp.float32)
        keys = jax.random.split(key, self.cross_layers)
        return jax.vmap(lambda k: self._block().init(k, x, x)["params"])(keys)

    def __call__(
        self,
        x: Float[Array, "B L D"],
        *,
        key: Key | None = None,
        noise: Float[Array, "B G L"] | None = None,
    ) -> Grouping:
        """Groups patch tokens.

        Args:
            x: the tokens of the block before.
            key: draws the Gumbel noise of training.
            noise: the noise itself, in place of a key. With neither, no noise: evaluation.

        Returns:
            `Grouping`; assignments in float32, regions and centres in `dtype`.

        Raises:
            UserError: for a key and noise together.
        """
        if key is not None and noise is not None:
            raise UserError("noise: expected a key or the noise itself, got both; give one")
        batch = x.shape[0]
        if key is not None:
            noise = gumbel(key, (batch, self.centers, x.shape[1]))
        scrambled = 0
        if self.cross_batch_kv == "torch18":
            scrambled = self.scramble_images or batch
        block = self._block(scrambled)
        shape = (batch, self.centers, self.width)
        q = jnp.broadcast_to(self.center_embedding, shape).astype(self.dtype)

        def layer(q: Array, params: Params) -> tuple[Any, None]:
            return block.apply({"params": params}, q, x), None

        if self.scan:
            q, _ = jax.lax.scan(layer, q, self.cross)
        else:
            for index in range(self.cross_layers):
                q, _ = layer(q, block_params(self.cross, index))
        q = self.cross_ln(q)
        normed = self.norm(x)
        keys = self.key_ln(self.key(normed))
        logits = jnp.einsum("bgd,bld->bgl", q, keys, preferred_element_type=jnp.float32)
        hard = assign(logits, noise, temperature=self.temperature)
        pooled = pool_groups(hard, self.value(normed)).astype(self.dtype)
        regions = self.proj(q + pooled)
        return Grouping(regions, hard, jax.nn.softmax(logits, axis=1), q, logits)


class RegionsToTokens(nn.Module):
    """Rebuilds patch tokens from the regions alone: T = QuickGELU((Mᵀ A + b) R).

    A token then knows which region its patch belongs to, and nothing of where it lies.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, hard: Float[Array, "B G L"], regions: Float[Array, "B G D"]
    ) -> Float[Array, "B L D"]:
        groups = hard.shape[1]
        mix = nn.Dense(groups, dtype=self.dtype, kernel_init=NEW_KERNEL, name="mix")
        weights = mix(hard.swapaxes(1, 2).astype(self.dtype))
        return ACTIVATION["quick_gelu"](jnp.einsum("blg,bgd->bld", weights, regions))

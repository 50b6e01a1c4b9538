"""The image tower: a vision transformer with class-token, attention-head or mean pooling."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from openseg_jax.errors import UserError, check_shape
from openseg_jax.models.last_block import LastBlock, neighbourhood
from openseg_jax.models.layers import (
    Attention,
    Block,
    LayerNorm,
    Mlp,
    block_params,
    init_stack,
    run_stack,
)
from openseg_jax.models.variants import VisionConfig
from openseg_jax.ops.posembed import resample_positions
from openseg_jax.types import Array, Float, Params


class PatchConv(nn.Module):
    """Maps each P×P patch to a vector; a strided convolution written as one matrix product."""

    patch: int
    width: int
    use_bias: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
        p = self.patch
        shape = (p, p, 3, self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(in_axis=(0, 1, 2)), shape)
        # Pixels beyond the last whole patch are dropped, as a VALID convolution does.
        h, w = image.shape[1] // p, image.shape[2] // p
        x = image[:, : h * p, : w * p].reshape(-1, h, p, w, p, 3)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, h, w, p * p * 3).astype(self.dtype)
        x = x @ kernel.reshape(p * p * 3, self.width).astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.width,))
            x = x + bias.astype(self.dtype)
        return x


class MapHead(nn.Module):
    """SigLIP's pooling: one learnt query attends to all tokens, then an MLP with a residual."""

    config: VisionConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        c = self.config
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, c.width)).astype(
            self.dtype
        )
        query = jnp.broadcast_to(probe[None], (tokens.shape[0], 1, c.width))
        y = Attention(c.width, c.heads, self.dtype, name="attn")(query, tokens)
        z = LayerNorm(c.eps, name="ln")(y)
        y = y + Mlp(c.width, c.mlp_width, c.act, self.dtype, name="mlp")(z)
        return y[:, 0]


class VisionTransformer(nn.Module):
    """The image tower in pieces: `embed`, `run` blocks, `pool`, `project`.

    Attributes:
        config: sizes and conventions.
        embed_dim: E.
        dtype: of the computation (bfloat16 or float32); parameters stay float32.
        scan: one compiled body for all blocks, see `layers.loop_blocks`.
        remat: what blocks compute again in the backward pass, see `models.remat`.
        backend: attention backend, see `ops.attention`.
    """

    config: VisionConfig
    embed_dim: int
    dtype: jnp.dtype = jnp.float32
    scan: bool | str = True
    remat: bool | str = "none"
    backend: str = "auto"

    def setup(self) -> None:
        c = self.config
        self.conv1 = PatchConv(c.patch_size, c.width, c.conv_bias, self.dtype)
        normal = nn.initializers.normal(c.width**-0.5)
        if c.pool == "class":
            self.class_embedding = self.param("class_embedding", normal, (c.width,))
        count = c.grid**2 + self.prefix
        self.positional_embedding = self.param("positional_embedding", normal, (count, c.width))
        if c.pre_norm:
            self.ln_pre = LayerNorm(c.eps)
        self.blocks = self.param("blocks", lambda key: init_stack(self.block(), key, c.depth))
        self.ln_post = LayerNorm(c.eps)
        if c.pool == "map":
            self.map_head = MapHead(c, self.dtype)
        if c.proj:
            self.proj = nn.Dense(
                self.embed_dim, use_bias=c.proj_bias, dtype=self.dtype, kernel_init=normal
            )

    @property
    def prefix(self) -> int:
        """Tokens before the patches: 1 with a class token, else 0."""
        return int(self.config.pool == "class")

    def block(self) -> Block:
        """Returns the unbound block that the stack repeats."""
        c = self.config
        return Block(
            c.width, c.heads, c.mlp_width, c.act, c.eps, self.dtype, self.backend, parent=None
        )

    def embed(
        self,
        image: Float[Array, "B H W 3"],
        *,
        convention: str | None = None,
        round_positions: bool = False,
        positions: Float[Array, "N D"] | None = None,
    ) -> Float[Array, "B N D"]:
        """Turns an image into the tokens that enter the first block.

        Args:
            image: normalised pixels, any size of at least one patch.
            convention: how positions are resampled; None takes the weights' own.
            round_positions: round positions to float16, as the published CaR does.
            positions: resampled already, for images that fill only a part of the canvas.

        Raises:
            UserError: for an image smaller than one patch or not of shape B H W 3.
        """
        c = self.config
        check_shape(image, "B H W 3", "image", fix="give a batch of RGB images, channels last")
        if min(image.shape[1:3]) < c.patch_size:
            raise UserError(
                f"image: expected at least {c.patch_size} pixels a side, got "
                f"{image.shape[1]}×{image.shape[2]}; enlarge it first"
            )
        x = self.conv1(image)
        grid = (x.shape[1], x.shape[2])
        x = x.reshape(x.shape[0], -1, c.width)
        if c.pool == "class":
            token = jnp.broadcast_to(
                self.class_embedding.astype(self.dtype), (x.shape[0], 1, c.width)
            )
            x = jnp.concatenate([token, x], axis=1)
        table: Any = positions
        if table is None:
            table = resample_positions(
                self.positional_embedding,
                grid,
                convention=convention or c.pos_resample,
                prefix=self.prefix,
            )
        if round_positions:
            table = table.astype(jnp.float16)
        x = x + table.astype(self.dtype)
        return self.ln_pre(x) if c.pre_norm else x

    def run(
        self, x: Float[Array, "B N D"], start: int = 0, stop: int | None = None
    ) -> Float[Array, "B N D"]:
        """Runs blocks `start` to `stop` (exclusive; Python's slice meaning)."""
        return run_stack(
            self.block(), self.blocks, x, start=start, stop=stop, scan=self.scan, remat=self.remat
        )

    def block_params(self, index: int) -> Params:
        """Returns the parameters of one block, for callers that take a block apart."""
        return block_params(self.blocks, index)

    def pool(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        """Pools the last block's tokens to one vector an image, before the projection."""
        if self.config.pool == "class":
            return self.ln_post(tokens[:, 0])
        tokens = self.ln_post(tokens)
        return self.map_head(tokens) if self.config.pool == "map" else tokens.mean(axis=1)

    def post(self, tokens: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Applies the final LayerNorm to any tokens."""
        return self.ln_post(tokens)

    def project(self, x: Float[Array, "... D"]) -> Float[Array, "... E"]:
        """Maps tower width to joint width (identity where the weights have no projection)."""
        return self.proj(x) if self.config.proj else x

    def __call__(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B E"]:
        """Encodes images to the joint space, not normalised."""
        return self.project(self.pool(self.run(self.embed(image))))

    def tokens(
        self,
        image: Float[Array, "B H W 3"],
        *,
        blocks: int | None = None,
        project: bool = False,
        last: LastBlock | None = None,
        std: float = 5.0,
        convention: str | None = None,
    ) -> Float[Array, "B L D"]:
        """Returns the patch tokens after `blocks` blocks (None for all, −1 for all but one).

        Args:
            image: normalised pixels.
            blocks: how many blocks to run, with Python's slice meaning.
            project: also apply the final LayerNorm and the projection, so that tokens can be
                compared with text embeddings; the last axis is then E.
            last: what the last of these blocks does; None and "plain" run it as trained.
            std: of the neighbourhood that `last` may ask for, patches.
            convention: as for `embed`.
        """
        x = self.embed(image, convention=convention)
        if last is None or last == LastBlock():
            x = self.run(x, 0, blocks)
        else:
            *before, final = range(self.config.depth)[:blocks]
            patch = self.config.patch_size
            grid = (image.shape[1] // patch, image.shape[2] // patch)
            bias = neighbourhood(grid, std, self.prefix) if last.neighbours else None
            x = self.run(x, 0, len(before))
            params = {"params": self.block_params(final)}
            x = jnp.asarray(self.block().apply(params, x, last, bias, method=Block.dense))
        x = x[:, self.prefix :]
        return self.project(self.ln_post(x)) if project else x

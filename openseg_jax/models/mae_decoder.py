"""The reconstruction decoder: from the tokens of the seen patches to the pixels of all."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from openseg_jax.models.grouping import NEW_KERNEL
from openseg_jax.models.layers import (
    Block,
    LayerNorm,
    block_params,
    init_stack,
    run_stack,
)
from openseg_jax.ops.attention import attention
from openseg_jax.ops.masked_patches import sincos_positions
from openseg_jax.types import Array, Float, Int

# The published decoder keeps MAE's epsilon, not CLIP's.
_EPS = 1e-6


class MaeDecoder(nn.Module):
    """A small vision transformer over seen tokens and mask tokens.

    Attributes:
        width, depth, heads: of the decoder.
        pixels: P·P·3, the values of a patch.
        dtype, scan, remat, backend: as in `models.clip.CLIP`.
    """

    width: int
    depth: int
    heads: int
    pixels: int
    dtype: jnp.dtype = jnp.float32
    scan: bool = True
    remat: bool | str = "none"
    backend: str = "auto"

    def setup(self) -> None:
        dense: dict[str, Any] = {"dtype": self.dtype, "kernel_init": NEW_KERNEL}
        self.embed = nn.Dense(self.width, **dense)
        self.mask_token = self.param("mask_token", NEW_KERNEL, (self.width,))
        self.blocks = self.param("blocks", lambda key: init_stack(self.block(), key, self.depth))
        self.norm = LayerNorm(_EPS)
        self.pred = nn.Dense(self.pixels, **dense)

    def block(self) -> Block:
        """Returns the unbound block that the stack repeats."""
        w = self.width
        return Block(
            w, self.heads, 4 * w, "gelu", _EPS, self.dtype, self.backend, NEW_KERNEL, parent=None
        )

    def __call__(
        self,
        tokens: Float[Array, "B K D"],
        restore: Int[Array, "B L"],
        grid: tuple[int, int],
        wanted: Int[Array, "B M"] | None = None,
    ) -> Float[Array, "B M P*P*3"]:
        """Predicts patches.

        Args:
            tokens: of the seen patches, in the order of `ops.masked_patches.Masking.kept`.
            restore: where each patch's token is: in `tokens`, or behind them when it is hidden.
            grid: (h, w) of the patches, static.
            wanted: patches to predict, e.g. the hidden ones; None for all in order. The last
                block then works for these alone.

        Returns:
            Float32 pixels, CLIP-normalised, in the order of `ops.masked_patches.patchify`.
        """
        batch, kept, _ = tokens.shape
        x = self.embed(jnp.concatenate([tokens.mean(axis=1, keepdims=True), tokens], axis=1))
        hidden = jnp.broadcast_to(
            self.mask_token.astype(x.dtype), (batch, restore.shape[1] - kept, self.width)
        )
        patches = jnp.concatenate([x[:, 1:], hidden], axis=1)
        patches = jnp.take_along_axis(patches, restore[..., None], axis=1)
        patches = patches + sincos_positions(self.width, grid).astype(x.dtype)
        # The mean token takes the class token's place, whose position is zero.
        x = jnp.concatenate([x[:, :1], patches], axis=1)
        x = run_stack(
            self.block(), self.blocks, x, stop=-1, scan=self.scan, remat=self.remat
        )  # fmt: skip
        x = self._last(x, wanted)
        return self.pred(self.norm(x)).astype(jnp.float32)

    def _last(
        self, x: Float[Array, "B N D"], wanted: Int[Array, "B M"] | None
    ) -> Float[Array, "B M D"]:
        block, params = self.block(), {"params": block_params(self.blocks, -1)}
        normed: Any = block.apply(params, x, method=Block.normed)
        if wanted is None:
            rows, queries = x[:, 1:], normed[:, 1:]
        else:
            at = 1 + wanted[..., None]
            rows = jnp.take_along_axis(x, at, axis=1)
            queries = jnp.take_along_axis(normed, at, axis=1)
        q, k, v = block.apply(params, queries, normed, method=Block.project_in)  # type: ignore
        out: Any = block.apply(
            params, rows, attention(q, k, v, backend=self.backend), method=Block.finish
        )
        return out

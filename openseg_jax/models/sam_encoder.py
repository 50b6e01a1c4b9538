"""Segment Anything's image encoder: a ViT that attends within windows, and here and there to all.

Source: Kirillov et al. 2023 and ViTDet (Li et al. 2022), as `transformers` runs them (SamModel).
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from openseg_jax.errors import UserError, check_shape
from openseg_jax.models.layers import Block, LayerNorm, init_stack, loop_blocks
from openseg_jax.models.vit import PatchConv
from openseg_jax.ops.attention import attention
from openseg_jax.ops.relative_attention import relative_attention
from openseg_jax.types import Array, Float, Params

# Of the neck's normalisations, whatever the blocks' own is.
NECK_EPS = 1e-6


@dataclasses.dataclass(frozen=True)
class SamEncoderConfig:
    """Sizes and conventions of the image encoder.

    Attributes:
        image_size: S, pixels a side; no other size is taken. patch_size: pixels a side.
        width: D. depth: number of blocks. heads: A. mlp_width: F.
        act: one of `models.variants.ACTIVATIONS`. eps: of the blocks' LayerNorms.
        window: cells a side of a window.
        global_blocks: numbers of the blocks that attend to the whole image.
        absolute, relative: which position tables there are.
        out_width: E, channels of the embedding.
    """

    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    act: str
    eps: float
    window: int
    global_blocks: tuple[int, ...]
    absolute: bool
    relative: bool
    out_width: int

    @property
    def grid(self) -> int:
        """Patches a side."""
        return self.image_size // self.patch_size

    def side(self, block: int) -> int:
        """Cells a side that block number `block` attends within."""
        return self.grid if block in self.global_blocks else self.window


class SamEncoder(nn.Module):
    """Encodes images to a grid of embeddings.

    Attributes:
        config: sizes.
        dtype: of the computation; parameters, softmax and normalisations are float32.
    """

    config: SamEncoderConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        c = self.config
        self.patch = PatchConv(c.patch_size, c.width, use_bias=True, dtype=self.dtype)
        zeros = nn.initializers.zeros
        if c.absolute:
            self.positions = self.param("positions", zeros, (c.grid, c.grid, c.width))
        self.blocks = self.param("blocks", lambda key: init_stack(self._block(), key, c.depth))
        if c.relative:
            # Tables are of two lengths, so they stay apart from the stack.
            self.relative = [
                tuple(
                    self.param(f"{name}_{i}", zeros, (2 * c.side(i) - 1, c.width // c.heads))
                    for name in ("rows", "columns")
                )
                for i in range(c.depth)
            ]
        plain: dict[str, Any] = {"use_bias": False, "dtype": self.dtype}
        self.neck_1 = nn.Conv(c.out_width, (1, 1), **plain)
        self.neck_norm_1 = LayerNorm(NECK_EPS)
        self.neck_2 = nn.Conv(c.out_width, (3, 3), padding=1, **plain)
        self.neck_norm_2 = LayerNorm(NECK_EPS)

    def _block(self) -> Block:
        c = self.config
        return Block(c.width, c.heads, c.mlp_width, c.act, c.eps, self.dtype, parent=None)

    def __call__(self, image: Float[Array, "B S S 3"]) -> Float[Array, "B h w E"]:
        """Encodes normalised pixels.

        Raises:
            UserError: for images of another size than the weights were trained for.
        """
        c = self.config
        check_shape(image, "B H W 3", "image", fix="give a batch of RGB images, channels last")
        if image.shape[1:3] != (c.image_size, c.image_size):
            raise UserError(
                f"image: expected {c.image_size}×{c.image_size} pixels, got "
                f"{image.shape[1]}×{image.shape[2]}; use models.sam.fit"
            )
        x = self.patch(image)
        if c.absolute:
            x = x + self.positions.astype(self.dtype)
        x = x.reshape(x.shape[0], -1, c.width)
        # Runs of blocks of one kind share a compiled body.
        for everywhere, run in itertools.groupby(range(c.depth), key=c.global_blocks.__contains__):
            numbers = list(run)
            stack: dict[str, Any] = {
                "block": jax.tree.map(lambda leaf, n=numbers: leaf[n[0] : n[-1] + 1], self.blocks)
            }
            if c.relative:
                stack["relative"] = tuple(
                    jnp.stack(tables)
                    for tables in zip(*(self.relative[i] for i in numbers), strict=True)
                )
            x = loop_blocks(self._body(c.grid if everywhere else c.window), stack, x)
        x = x.reshape(-1, c.grid, c.grid, c.width)
        x = self.neck_norm_1(self.neck_1(x))
        return self.neck_norm_2(self.neck_2(x))

    def _body(self, side: int) -> Any:
        block, grid = self._block(), self.config.grid

        def body(x: Float[Array, "B N D"], params: Params) -> Float[Array, "B N D"]:
            def call(method: Any, *inputs: Array) -> Any:
                return block.apply({"params": params["block"]}, *inputs, method=method)

            a = call(Block.normed, x).reshape(-1, grid, grid, x.shape[-1])
            q, k, v = call(Block.project_in, windows(a, side))
            if "relative" in params:
                rows, columns = params["relative"]
                attended = relative_attention(q, k, v, rows, columns, (side, side))
            else:
                attended = attention(q, k, v)
            attended = whole(attended.reshape(*attended.shape[:2], -1), side, grid)
            return call(Block.finish, x, attended.reshape(*x.shape[:2], *q.shape[2:]))

        return body


def windows(x: Float[Array, "B h w D"], side: int) -> Float[Array, "BW N D"]:
    """Cuts maps into windows of side × side cells, the last ones padded with zeros.

    Padding is not masked out of the attention, as published: it takes part as cells of zeros.

    Returns:
        BW = B times the number of windows, N = side²; one window is returned as it is.
    """
    batch, h, w, width = x.shape
    x = jnp.pad(x, ((0, 0), (0, -h % side), (0, -w % side), (0, 0)))
    x = x.reshape(batch, x.shape[1] // side, side, x.shape[2] // side, side, width)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side * side, width)


def whole(x: Float[Array, "BW N D"], side: int, grid: int) -> Float[Array, "B h w D"]:
    """Puts windows together again and cuts the padding off: undoes `windows` for h = w = grid."""
    count = -(-grid // side)
    x = x.reshape(-1, count, count, side, side, x.shape[-1]).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(x.shape[0], count * side, count * side, x.shape[-1])
    return x[:, :grid, :grid]

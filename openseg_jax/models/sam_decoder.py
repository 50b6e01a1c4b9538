"""Segment Anything's prompts and mask decoder: points and boxes in, three masks each out.

Source: Kirillov et al. 2023, appendix A, as `transformers` runs it (SamModel).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from openseg_jax.models.layers import ACTIVATION, Attention, LayerNorm
from openseg_jax.models.mask_decoder import MlpHead
from openseg_jax.ops.attention import attention
from openseg_jax.types import Array, Float, Int

# Of the normalisations that take no setting: within the upscaling, and after the last attention.
UPSCALE_EPS, FINAL_EPS = 1e-6, 1e-5
# Meanings of a point's label, as transformers numbers them.
BACKGROUND, OBJECT, NO_POINT, IGNORED = 0, 1, -1, -10


@dataclasses.dataclass(frozen=True)
class SamDecoderConfig:
    """Sizes and conventions of prompt encoder and mask decoder.

    Attributes:
        width: E of the image embedding, the prompts and the tokens. layers: two-way blocks.
        heads: of every attention. mlp_width: F. eps: of the blocks' LayerNorms.
        downsample: attention between tokens and image works in width / downsample.
        masks: proposed for a prompt; one more answers alone (`multimask=False`).
        iou_layers, iou_width: of the head that predicts how good a mask is.
        mask_channels, prompt_act, prompt_eps: of the convolutions that embed a mask prompt.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    eps: float
    downsample: int
    masks: int
    iou_layers: int
    iou_width: int
    mask_channels: int
    prompt_act: str
    prompt_eps: float


class Prompts(nn.Module):
    """Embeds points, boxes and masks.

    Attributes:
        config: sizes.
        image_size: S, pixels a side that coordinates refer to.
        dtype: of the mask convolutions; coordinates are always float32.
    """

    config: SamDecoderConfig
    image_size: int
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        c = self.config
        normal = nn.initializers.normal(1.0)
        self.frequencies = self.param("frequencies", normal, (2, c.width // 2))
        # Background point, object point, and the two corners of a box.
        self.kinds = self.param("kinds", normal, (4, c.width))
        self.no_point = self.param("no_point", normal, (c.width,))
        self.no_mask = self.param("no_mask", normal, (c.width,))
        switches: dict[str, Any] = {"dtype": self.dtype}
        channels = c.mask_channels // 4
        self.mask_1 = nn.Conv(channels, (2, 2), strides=2, padding="VALID", **switches)
        self.mask_norm_1 = LayerNorm(c.prompt_eps)
        self.mask_2 = nn.Conv(c.mask_channels, (2, 2), strides=2, padding="VALID", **switches)
        self.mask_norm_2 = LayerNorm(c.prompt_eps)
        self.mask_3 = nn.Conv(c.width, (1, 1), **switches)

    def positions(self, at: Float[Array, "*B 2"]) -> Float[Array, "*B E"]:
        """Encodes (x, y) in [0, 1] by random frequencies, float32."""
        at = 2 * jnp.asarray(at, jnp.float32) - 1
        angle = 2 * math.pi * jnp.matmul(at, self.frequencies, precision=lax.Precision.HIGHEST)
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)

    def grid(self, side: int) -> Float[Array, "side side E"]:
        """Encodes the centres of side × side cells."""
        at = (jnp.arange(side, dtype=jnp.float32) + 0.5) / side
        return self.positions(jnp.stack(jnp.meshgrid(at, at, indexing="xy"), axis=-1))

    def points(
        self, at: Float[Array, "P K 2"], labels: Int[Array, "P K"], *, alone: bool
    ) -> Float[Array, "P K1 E"]:
        """Embeds K points a prompt.

        Args:
            at: (x, y) in pixels of the S × S image.
            labels: `OBJECT`, `BACKGROUND`, `NO_POINT` or `IGNORED`.
            alone: whether no box follows; a point that is none then comes last, K1 = K + 1.
        """
        at, labels = jnp.asarray(at, jnp.float32) + 0.5, jnp.asarray(labels)
        if alone:
            at = jnp.pad(at, ((0, 0), (0, 1), (0, 0)))
            labels = jnp.pad(labels, ((0, 0), (0, 1)), constant_values=NO_POINT)
        labels = labels[..., None]
        out = jnp.where(labels == NO_POINT, self.no_point, self.positions(at / self.image_size))
        out = jnp.where(labels == IGNORED, 0, out)
        for kind in (BACKGROUND, OBJECT):
            out = out + jnp.where(labels == kind, self.kinds[kind], 0)
        return out

    def boxes(self, boxes: Float[Array, "P 4"]) -> Float[Array, "P 2 E"]:
        """Embeds boxes (x0, y0, x1, y1) in pixels by their two corners."""
        corners = jnp.asarray(boxes, jnp.float32).reshape(-1, 2, 2) + 0.5
        return self.positions(corners / self.image_size) + self.kinds[2:]

    def masks(self, masks: Float[Array, "P 4h 4w"] | None) -> Float[Array, "P h w E"]:
        """Embeds mask logits; without any, one cell of the constant for "no mask"."""
        if masks is None:
            return self.no_mask[None, None, None]
        act = ACTIVATION[self.config.prompt_act]
        x = act(self.mask_norm_1(self.mask_1(masks[..., None])))
        return self.mask_3(act(self.mask_norm_2(self.mask_2(x))))


class TwoWayBlock(nn.Module):
    """Tokens attend to each other and to the image, and the image attends to the tokens."""

    config: SamDecoderConfig
    first: bool
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        c = self.config
        inner = c.width // c.downsample
        self.self_attn = Attention(c.width, c.heads, self.dtype)
        self.token_to_image = Attention(inner, c.heads, self.dtype, out_width=c.width)
        self.image_to_token = Attention(inner, c.heads, self.dtype, out_width=c.width)
        self.mlp = MlpHead((c.mlp_width, c.width), self.dtype)
        self.norm_1, self.norm_2, self.norm_3, self.norm_4 = (LayerNorm(c.eps) for _ in range(4))

    def __call__(
        self,
        tokens: Float[Array, "P T E"],
        image: Float[Array, "Q N E"],
        prompts: Float[Array, "P T E"],
        places: Float[Array, "N E"],
    ) -> tuple[Float[Array, "P T E"], Float[Array, "P N E"]]:
        """Runs the block.

        Args:
            tokens: of each prompt.
            image: for each prompt, or one for all of them (Q = 1).
            prompts: the tokens as they first were, their positions.
            places: positions of the image's cells.
        """
        if self.first:
            tokens = self.self_attn(tokens)
        else:
            at = tokens + prompts
            tokens = tokens + self.self_attn(at, at, value=tokens)
        tokens = self.norm_1(tokens)
        out = look(self.token_to_image, tokens + prompts, image + places, image)
        tokens = self.norm_2(tokens + out)
        tokens = self.norm_3(tokens + self.mlp(tokens))
        q, k, v = self.image_to_token.project_in(image + places, tokens + prompts, tokens)
        q = jnp.broadcast_to(q, (k.shape[0], *q.shape[1:]))
        out = self.image_to_token.project_out(attention(q, k, v))
        return tokens, self.norm_4(image + out)


def look(
    attend: Attention,
    tokens: Float[Array, "P T E"],
    key: Float[Array, "Q N E"],
    value: Float[Array, "Q N E"],
) -> Float[Array, "P T E"]:
    """Lets tokens attend to images; all tokens at once where all look at one (Q = 1)."""
    if key.shape[0] == 1:
        return attend(tokens.reshape(1, -1, tokens.shape[-1]), key, value=value).reshape(
            tokens.shape
        )
    return attend(tokens, key, value=value)


class Enlarge(nn.Module):
    """Makes 2×2 cells of each: a transposed convolution of stride 2 as one matrix product."""

    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "P h w D"]) -> Float[Array, "P 2h 2w E"]:
        shape = (2, 2, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(in_axis=2), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        count, h, w, _ = x.shape
        y = x.astype(self.dtype) @ kernel.transpose(2, 0, 1, 3).reshape(
            x.shape[-1], 4 * self.width
        ).astype(self.dtype)
        y = y.reshape(count, h, w, 2, 2, self.width).transpose(0, 1, 3, 2, 4, 5)
        return y.reshape(count, 2 * h, 2 * w, self.width) + bias.astype(self.dtype)


class SamDecoder(nn.Module):
    """Decodes prompts into masks and predictions of their quality.

    Attributes:
        config: sizes.
        dtype: of the computation; parameters, softmax, normalisations and results are float32.
    """

    config: SamDecoderConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        c = self.config
        normal = nn.initializers.normal(0.02)
        self.iou_token = self.param("iou_token", normal, (1, c.width))
        self.mask_tokens = self.param("mask_tokens", normal, (c.masks + 1, c.width))
        self.layers = [TwoWayBlock(c, i == 0, self.dtype) for i in range(c.layers)]
        inner = c.width // c.downsample
        self.final_attn = Attention(inner, c.heads, self.dtype, out_width=c.width)
        self.final_norm = LayerNorm(FINAL_EPS)
        self.enlarge_1 = Enlarge(c.width // 4, self.dtype)
        self.enlarge_norm = LayerNorm(UPSCALE_EPS)
        self.enlarge_2 = Enlarge(c.width // 8, self.dtype)
        self.hyper = [
            MlpHead((c.width, c.width, c.width // 8), self.dtype) for _ in range(c.masks + 1)
        ]
        hidden = (c.iou_width,) * (c.iou_layers - 1)
        self.iou_head = MlpHead((*hidden, c.masks + 1), self.dtype)

    def __call__(
        self,
        image: Float[Array, "Q h w E"],
        places: Float[Array, "h w E"],
        prompts: Float[Array, "P K E"],
        *,
        multimask: bool = True,
    ) -> tuple[Float[Array, "P M 4h 4w"], Float[Array, "P M"]]:
        """Decodes P prompts on one image.

        Args:
            image: its embedding plus that of the mask prompt, for each prompt or for all (Q = 1).
            places: positions of its cells.
            prompts: K embedded points and corners of each prompt.
            multimask: propose `config.masks` masks; False gives the one that answers alone.

        Returns:
            Mask logits, and the predicted IoU of each mask.
        """
        c = self.config
        count, (h, w) = prompts.shape[0], places.shape[:2]
        own = jnp.concatenate([self.iou_token, self.mask_tokens])
        own = jnp.broadcast_to(own, (count, *own.shape))
        prompts = jnp.concatenate([own, prompts], axis=1).astype(self.dtype)
        places = places.reshape(-1, c.width).astype(self.dtype)
        image = image.reshape(image.shape[0], -1, c.width).astype(self.dtype)
        tokens = prompts
        for layer in self.layers:
            tokens, image = layer(tokens, image, prompts, places)
        out = look(self.final_attn, tokens + prompts, image + places, image)
        tokens = self.final_norm(tokens + out)
        x = self.enlarge_norm(self.enlarge_1(image.reshape(-1, h, w, c.width)))
        x = ACTIVATION["gelu"](self.enlarge_2(ACTIVATION["gelu"](x)))
        # The compiler drops what is not asked for.
        chosen = slice(1, None) if multimask else slice(0, 1)
        heads = [head(tokens[:, 1 + i]) for i, head in enumerate(self.hyper)]
        weights = jnp.stack(heads, axis=1)[:, chosen]
        logits = jnp.einsum("pmd,pyxd->pmyx", weights, x, preferred_element_type=jnp.float32)
        return logits, self.iou_head(tokens[:, 0]).astype(jnp.float32)[:, chosen]

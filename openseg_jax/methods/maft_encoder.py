"""MAFT's path from pixels and masks to embeddings, with the published preprocessing."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp

from openseg_jax.methods.maft_config import Plan
from openseg_jax.models import ip_clip
from openseg_jax.models.vit import VisionTransformer
from openseg_jax.ops.resize import resize
from openseg_jax.ops.sampling import sample_centres
from openseg_jax.ops.token_masks import reference_grid, token_masks
from openseg_jax.types import Array, Bool, Float, Params, UInt8

__all__ = ["Encoder", "full_size", "short_edge_size"]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Encodes masks of images; hashable, so that segmenters of equal settings share programs.

    Attributes:
        tower: the unbound image tower.
        plan: sizes. mean, std: of the pixels, for values in [0, 1].
        pos_resample, pad_to, square_tokens: see `MaftConfig`.
    """

    tower: VisionTransformer
    plan: Plan
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pos_resample: str
    pad_to: int
    square_tokens: bool

    def canvas(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the padded size of an image."""
        step = max(self.pad_to, 1)
        return -(-size[0] // step) * step, -(-size[1] // step) * step

    def pixels(
        self, image: UInt8[Array, "B H W 3"], sizes: Float[Array, "B 2"] | None = None
    ) -> Float[Array, "B S S 3"]:
        """Normalises images and squeezes them to the encoder's square.

        Args:
            image: RGB bytes.
            sizes: true (height, width) of each image in a canvas; None is all of it.

        Source: maft.md §1.2; bilinear with half-pixel centres, no antialias.
        """
        mean, std = jnp.asarray(self.mean, jnp.float32), jnp.asarray(self.std, jnp.float32)
        x = (image.astype(jnp.float32) / 255 - mean) / std
        height, width = self.canvas(image.shape[1:3])
        if sizes is None:
            more = [(0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]), (0, 0)]
            x = jnp.pad(x, more)
        square = (self.plan.size, self.plan.size)
        return jnp.moveaxis(sample_centres(jnp.moveaxis(x, -1, 1), square, sizes=sizes), 1, -1)

    def encode(
        self,
        visual: Params,
        pixels: Float[Array, "B S S 3"],
        masks: Float[Array, "B M h w"],
        sizes: Float[Array, "B 2"] | None = None,
    ) -> Float[Array, "B M E"]:
        """Encodes every mask of every image, not scaled to unit length.

        Args:
            visual: the tower's parameters.
            pixels: from `pixels`.
            masks: soft masks of the same field of view, at any resolution.
            sizes: true (height, width) of each image in pixels of `masks`, where they sit in a
                canvas; None is all of it.
        """
        return self.encode_tokens(visual, pixels, self.inside(masks, sizes))

    def inside(
        self, masks: Float[Array, "B M h w"], sizes: Float[Array, "B 2"] | None = None
    ) -> Bool[Array, "B M L"]:
        """Says which patches each mask holds; arguments as for `encode`."""
        grid = reference_grid(self.plan.grid) if self.square_tokens else self.plan.grid
        return token_masks(masks, grid, sizes=sizes)

    def encode_tokens(
        self, visual: Params, pixels: Float[Array, "B S S 3"], inside: Bool[Array, "B M L"]
    ) -> Float[Array, "B M E"]:
        """Encodes every mask from the patches that it holds."""
        encode: Any = functools.partial(
            ip_clip.ip_encode, start=self.plan.start, convention=self.pos_resample
        )

        def method(tower: VisionTransformer, x: Array, inside: Array) -> Array:
            return encode(tower, x.astype(tower.dtype), inside)

        return self.tower.apply({"params": visual}, pixels, inside, method=method)  # type: ignore


def full_size(
    probs: Float[Array, "B M h w"], size: tuple[int, int], canvas: tuple[int, int]
) -> Float[Array, "B M H W"]:
    """Resizes masks of a padded canvas and cuts them to the image.

    Args:
        probs: masks that cover the canvas, at any resolution.
        size: (H, W) of the image. canvas: its padded size.
    """
    if canvas != size:
        probs = resize(probs, canvas)[..., : size[0], : size[1]]
    return resize(probs, size) if probs.shape[2:] != size else probs.astype(jnp.float32)


def short_edge_size(size: tuple[int, int], short: int, longest: int) -> tuple[int, int]:
    """Returns the size at which the short side is `short` and the long one at most `longest`.

    Source: the usual rule of detectron2's evaluation, with its rounding (half up).
    """
    scale = short / min(size)
    if max(size) * scale > longest:
        scale = longest / max(size)
    return max(int(size[0] * scale + 0.5), 1), max(int(size[1] * scale + 0.5), 1)

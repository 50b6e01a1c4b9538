"""Patches of an image as rows: cutting them out, hiding most of them, and where they lie."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from openseg_jax.errors import expected
from openseg_jax.types import Array, Float, Int

__all__ = ["Masking", "kept_patches", "mask_patches", "patchify", "sincos_positions"]


class Masking(NamedTuple):
    """Which patches are seen and which are hidden.

    Attributes:
        kept: Int[B K], the patches seen, in random order.
        hidden: Int[B L-K], the others.
        restore: Int[B L], where each patch went: kept ones first, then hidden ones.
    """

    kept: Int[Array, "B K"]
    hidden: Int[Array, "B L-K"]
    restore: Int[Array, "B L"]


def kept_patches(patches: int, ratio: float) -> int:
    """Counts the patches that stay when a share `ratio` of the tokens is hidden.

    Source: MAE and SegCLIP count the class token, which always stays: int((L + 1)(1 − ratio)) − 1.

    Raises:
        UserError: for a share that leaves no patch, or hides none.
    """
    kept = int((patches + 1) * (1 - ratio)) - 1
    if not 1 <= kept < patches:
        raise expected(
            "mask_ratio", f"a share that hides some of {patches} patches and leaves some",
            str(ratio), "try 0.75",
        )  # fmt: skip
    return kept


def mask_patches(noise: Float[Array, "B L"], ratio: float) -> Masking:
    """Hides the patches with the largest noise.

    Args:
        noise: one number a patch, uniform for random masking.
        ratio: share of the tokens to hide.
    """
    kept = kept_patches(noise.shape[1], ratio)
    order = jnp.argsort(noise, axis=1)
    return Masking(order[:, :kept], order[:, kept:], jnp.argsort(order, axis=1))


def patchify(image: Float[Array, "B H W 3"], patch: int) -> Float[Array, "B L P*P*3"]:
    """Cuts an image into rows of pixels, in the order (row, column, channel) within a patch."""
    b, h, w = image.shape[0], image.shape[1] // patch, image.shape[2] // patch
    x = image[:, : h * patch, : w * patch].reshape(b, h, patch, w, patch, 3)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * w, patch * patch * 3)


def sincos_positions(width: int, grid: tuple[int, int]) -> Float[np.ndarray, "L D"]:
    """Builds fixed position embeddings of a grid, row-major.

    The first half of the width encodes the column, the second the row; each is the sines and then
    the cosines of the index times 10000^(−i / (D/4)).

    Args:
        width: D, a multiple of 4.
        grid: (h, w).

    Source: MAE's `get_2d_sincos_pos_embed`, without its row of zeros for the class token.
    """
    if width % 4:
        raise expected("width", "a multiple of 4", str(width), "round it")
    omega = 10000.0 ** (-np.arange(width // 4, dtype=np.float64) / (width // 4))

    def axis(index: np.ndarray) -> np.ndarray:
        angle = index.reshape(-1, 1) * omega
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    return np.concatenate([axis(columns), axis(rows)], axis=1).astype(np.float32)

"""The source "regions": training-free region proposals, so that MAFT needs nothing but a CLIP.

`ops.regions` is host code. It is called from compiled programs through a callback of fixed shapes,
so that `segment` stays one jittable function; on accelerators the picture travels to the host.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from openseg_jax.errors import expected
from openseg_jax.methods.base import true_sizes
from openseg_jax.ops.regions import region_proposals
from openseg_jax.types import Array, Bool, Float, Params, UInt8

__all__ = ["Regions", "load"]


class Regions:
    """Proposes regions of all sizes that follow the contrasts of a picture.

    Attributes:
        params: {}, nothing is learnt.
        count: M, at most so many regions an image. finest: superpixels they are grouped from.
        side: pixels; pictures are reduced to this long side before they are cut up.
    """

    def __init__(self, *, count: int = 100, finest: int = 200, side: int = 256) -> None:
        for name, value, least in (("count", count, 2), ("finest", finest, 2), ("side", side, 8)):
            if not (isinstance(value, int) and value >= least):
                raise expected(name, f"a whole number of {least} or more", repr(value), "try more")
        self.params: Params = {}
        self.count, self.finest, self.side = count, finest, side

    def propose(
        self,
        params: Params,
        image: UInt8[Array, "B H W 3"],
        text: Float[Array, "G E"],
        valid: Bool[Array, "B H W"] | None = None,
    ) -> tuple[Float[Array, "B M h w"], Bool[Array, "B M"]]:
        """Proposes up to `count` regions an image; those of the finest cut cover it.

        Args:
            params, text: not looked at.
            image: RGB bytes; smaller images sit at the top left of the canvas.
            valid: pixels that exist; only they are cut up.

        Returns:
            Masks of 0 and 1 at the reduced size.
        """
        batch, height, width = image.shape[:3]
        scale = min(1.0, self.side / max(height, width))
        size = (max(round(height * scale), 1), max(round(width * scale), 1))
        if valid is None:
            sizes = jnp.tile(jnp.asarray([[height, width]], jnp.int32), (batch, 1))
        else:
            sizes = true_sizes(valid)
        shapes = (
            jax.ShapeDtypeStruct((batch, self.count, *size), jnp.uint8),
            jax.ShapeDtypeStruct((batch, self.count), jnp.bool_),
        )

        def host(images: Any, sizes: Any) -> tuple[np.ndarray, np.ndarray]:
            return self._on_host(np.asarray(images), np.asarray(sizes), size)

        masks, exists = jax.pure_callback(host, shapes, image, sizes, vmap_method="sequential")
        return masks.astype(jnp.float32), exists

    def _on_host(
        self, images: np.ndarray, sizes: np.ndarray, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        masks = np.zeros((len(images), self.count, *size), np.uint8)
        exists = np.zeros((len(images), self.count), bool)
        canvas = images.shape[1:3]
        for i, (image, true) in enumerate(zip(images, sizes, strict=True)):
            part = [max(round(n * s / c), 1) for n, s, c in zip(true, size, canvas, strict=True)]
            picture = Image.fromarray(image[: true[0], : true[1]])
            small = picture.resize((part[1], part[0]), Image.Resampling.BOX)
            found = region_proposals(np.asarray(small), self.count, finest=self.finest)
            masks[i, : len(found), : part[0], : part[1]] = found
            exists[i, : len(found)] = True
        return masks, exists


def load(model: Any, **settings: Any) -> Regions:
    """Builds the source; the weights play no part.

    Args:
        settings: `count`, `finest` and `side`, see `Regions`.
    """
    return Regions(**settings)

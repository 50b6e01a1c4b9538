"""Superpixel ids as part of training examples."""

from __future__ import annotations

import dataclasses

import numpy as np

from openseg_jax.inputs.crops import Crop
from openseg_jax.inputs.pipeline import Example
from openseg_jax.inputs.superpixels import Superpixels
from openseg_jax.types import UInt8


@dataclasses.dataclass(frozen=True)
class PatchSuperpixels:
    """Makes {superpixels Int32[h w]}, one id a patch; the `extras` of sources of pictures.

    Attributes:
        superpixels: how they are made of whole pictures.
        size: of the image tower, pixels.
        patch: side of a patch, pixels.
        parity: see `inputs.superpixels.patch_ids`.
    """

    superpixels: Superpixels
    size: int
    patch: int
    parity: str | None = None

    def __call__(self, image: UInt8[np.ndarray, "H W 3"], crop: Crop | None = None) -> Example:
        box = (0.0, 0.0, 1.0, 1.0) if crop is None else crop.fractions
        made = self.superpixels.patches(image, box, self.size, self.patch, parity=self.parity)
        return dict(made)

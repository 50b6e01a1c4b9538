"""CaR's visual prompts as a picture-level augmentation.

CaR's classifier sees pictures in which all but one mask is blurred or grey, or in which the mask
is circled in red. A CLIP that has never met that look is surprised by it; a large CLIP has met it
on the web. The masks of CaR are rough, so these are roughened too.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageFilter

KINDS: tuple[tuple[str, ...], ...] = (
    ("blur",), ("gray",), ("circle",), ("blur", "gray"), ("blur", "circle"),
)  # fmt: skip
_SIGMA = 2.6 / 96.0  # CaR blurs with sigma 2.6 pixels; of the side at the scenes' own size


def mark(
    rng: np.random.Generator, image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Points at one mask in the way of CaR.

    Args:
        rng: source of chance: which marks, and how rough the mask is.
        image: the picture.
        mask: what to point at, at least one pixel.
    Returns:
        the picture with everything else blurred and/or grey, and/or a red ellipse around the mask.
    """
    kinds = KINDS[int(rng.random() * len(KINDS))]
    rough = _roughen(rng, mask)
    if "blur" in kinds:
        blur = Image.fromarray(image).filter(ImageFilter.GaussianBlur(_SIGMA * image.shape[0]))
        image = np.where(rough[..., None], image, np.asarray(blur))
    if "gray" in kinds:
        # red and blue weights are swapped in the reference, see the CaR method
        gray = image @ np.array([0.114, 0.587, 0.299], np.float32)
        image = np.where(rough[..., None], image, gray.astype(np.uint8)[..., None])
    if "circle" in kinds:
        image = np.where(_ellipse(rough)[..., None], np.array([255, 0, 0], np.uint8), image)
    return image


def _roughen(rng: np.random.Generator, mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Grows or shrinks a mask by a pixel or two and rounds it off; never empties it."""
    soft = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(2.0))
    rough = np.asarray(soft) > rng.uniform(50.0, 160.0)
    return rough if rough.any() else mask


def _ellipse(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Draws a one-pixel ellipse of the mask's extent around its centroid."""
    rows, columns = np.nonzero(mask)
    height = max(0.5 * float(rows.max() - rows.min() + 1), 1.0)
    width = max(0.5 * float(columns.max() - columns.min() + 1), 1.0)
    down = (np.arange(mask.shape[0], dtype=np.float32) - rows.mean()) / height
    across = (np.arange(mask.shape[1], dtype=np.float32) - columns.mean()) / width
    distance = np.abs(np.hypot(across[None], down[:, None]) - 1.0) * min(height, width)
    return distance < 0.6

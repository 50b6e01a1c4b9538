"""What improves CaR's pixels beside the CRF: PAMR on its maps, and SAM's masks in place of its own.

Neither changes which texts are found or how they score.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from openseg_jax.errors import UserError, check_shape
from openseg_jax.methods.car_config import CaRConfig
from openseg_jax.ops import pamr
from openseg_jax.ops.masks import match_proposals
from openseg_jax.types import Array, Bool, Float, UInt8

__all__ = ["MaskSource", "Remembered", "affinity", "rematch", "source_of", "spread"]

MaskSource = Callable[[UInt8[np.ndarray, "H W 3"]], Bool[np.ndarray, "N H W"]]
"""Draws all masks that it sees in a picture, any number of them, whatever they show."""

# Channels that are refined at once on the host: one program a picture's size, not one for every
# number of survivors.
_CHANNELS = 4
# Pictures whose masks are kept: the passes and rounds over one batch ask again.
_PICTURES = 8

_affinity = jax.jit(pamr.affinity)
_spread = jax.jit(pamr.spread, static_argnames="iterations")


def affinity(
    image: UInt8[Array, "H W 3"], valid: Bool[Array, "H W"] | None
) -> Float[Array, "D 8 H W"]:
    """Weighs each pixel's neighbours once for all maps of an image, see `ops.pamr`."""
    return (pamr.affinity if isinstance(image, jax.Array) else _affinity)(image, valid)


def spread(
    weights: Float[Array, "D 8 H W"],
    maps: Float[Array, "K H W"],
    valid: Bool[Array, "H W"] | None,
    iterations: int,
) -> Float[Array, "K H W"]:
    """Refines maps by PAMR: NumPy arrays by compiled programs, others as part of one."""
    if isinstance(maps, jax.Array):
        return pamr.spread(weights, maps, valid, iterations=iterations)
    out = []
    for start in range(0, len(maps), _CHANNELS):
        part = maps[start : start + _CHANNELS]
        whole = np.pad(part, [(0, _CHANNELS - len(part)), (0, 0), (0, 0)])
        out.append(np.asarray(_spread(weights, whole, valid, iterations=iterations))[: len(part)])
    return np.concatenate(out)


class Remembered:
    """A mask source that is asked once a picture and whose answers are checked.

    Attributes:
        source: the source. provenance: what it says of itself, or its name.
    """

    def __init__(self, source: MaskSource) -> None:
        self.source = source
        # A function says no more than its name, a SAM where its weights come from.
        told = getattr(getattr(source, "sam", source), "provenance", None)
        name = getattr(source, "__qualname__", type(source).__name__)
        self.provenance: dict[str, Any] = dict(told or {"name": name})
        self._kept: dict[Any, tuple[tuple[int, ...], bytes]] = {}

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> Bool[np.ndarray, "N H W"]:
        """Returns the masks of a picture.

        Raises:
            UserError: where the source returns anything but boolean masks of the picture's size.
        """
        image = np.ascontiguousarray(image)
        key = image.shape, hashlib.blake2b(image.tobytes()).digest()
        # Taken out and put back, so that it is the last to go; safe with several threads.
        found = self._kept.pop(key, None)
        if found is None:
            masks = np.asarray(self.source(image))
            dims = f"N {image.shape[0]} {image.shape[1]}"
            check_shape(masks, dims, "masks", dtype="bool", fix="let the source return such masks")
            found = masks.shape, zlib.compress(np.packbits(masks).tobytes(), 1)
        self._kept[key] = found
        while len(self._kept) > _PICTURES:
            self._kept.pop(next(iter(self._kept)), None)
        shape, packed = found
        bits = np.frombuffer(zlib.decompress(packed), np.uint8)
        return np.unpackbits(bits, count=math.prod(shape)).reshape(shape).astype(bool)


def source_of(config: CaRConfig, masks: MaskSource | None) -> Remembered | None:
    """Finds what a segmenter's masks are matched with.

    Args:
        config: `sam` and `sam_settings`.
        masks: a source that was given instead, or None.

    Returns:
        the source, or None where there is none.

    Raises:
        UserError: for both at once, or an unknown name of weights.
    """
    if isinstance(masks, Remembered):
        return masks
    if masks is not None and config.sam:
        raise UserError("masks: cannot be given together with sam; leave one of them out")
    if masks is not None:
        if not callable(masks):
            raise UserError(
                "masks: expected a function from a picture to its masks, got "
                f"{type(masks).__name__}; write lambda image: masks"
            )
        return Remembered(masks)
    if not config.sam:
        return None
    from openseg_jax.methods import sam_masks

    return Remembered(sam_masks.load(config.sam, **dict(config.sam_settings)))


def rematch(
    image: UInt8[np.ndarray, "H W 3"],
    masks: Bool[np.ndarray, "K H W"],
    source: MaskSource,
    config: CaRConfig,
) -> Bool[np.ndarray, "K H W"]:
    """Replaces masks by unions of the source's masks that agree with them.

    For a mask p and a mask q of the source, a = |p ∩ q| / |q| is the share of q inside p, and
    b = |p ∩ q| / |p| the share of p inside q. Where b is below `sam_min_pred`, a counts as 0.
    IoM = max(a, b). All q with an IoM above `sam_iom` match, or the best one where none is. Their
    union takes the place of p if the IoU of both is above `sam_iou`.

    Each mask is matched alone, so masks may overlap in the end: the one with the better score
    wins a pixel wherever labels are made, see `ops.masks.paint_labels`.

    Args:
        image: RGB bytes. masks: of texts, empty ones stay so.
        source: of masks of the whole picture. config: the three thresholds.

    Source: car.md §7.2; the paper has 0.7 for `sam_iom` and `sam_iou`, the published evaluation
    lacks the latter, and the published demo replaces always.
    """
    (filled,) = np.nonzero(masks.any(axis=(1, 2)))
    if not len(filled):
        return masks
    proposals = source(image)
    if not len(proposals):
        return masks
    found = match_proposals(
        masks[filled], proposals, iom_threshold=config.sam_iom, min_cover=config.sam_min_pred,
        iou_threshold=config.sam_iou,
    )  # fmt: skip
    out = masks.copy()
    out[filled] = found.masks
    return out

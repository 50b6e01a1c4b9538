"""All masks of a picture without any classes: Segment Anything, prompted by a grid of points.

Each point gives three masks. Those that the model itself finds good, that hardly change with the
threshold and that are no near copy of a better one remain, at the size of the picture.

Source: Kirillov et al. 2023, appendix B, and the automatic mask generation of `transformers`,
without crops. CaR matches its masks with these, see docs/sam.md.
"""

from __future__ import annotations

import dataclasses
import os
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from openseg_jax.errors import check_shape, check_types, expected, unknown_name
from openseg_jax.methods.settings import from_names
from openseg_jax.models.sam import Sam, fit, fitted_size, mask_matrices, normalise, point_grid
from openseg_jax.ops.nms import box_nms
from openseg_jax.ops.platform import target
from openseg_jax.ops.resize import apply_matrices
from openseg_jax.types import Array, Bool, Float, Int, Params, UInt8
from openseg_jax.weights.sam import LoadedSam, load_sam

__all__ = ["SamMasks", "SamMasksConfig", "load", "remove_small"]

DTYPES = ("float32", "bfloat16")
# Points decoded at once: the image's tokens are held once for each of them.
_POINTS = {"cpu": 16}
_MORE_POINTS = 64
# Logits at the picture's size that are held at once, in numbers.
_PIXELS = 2**24
_MOST_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class SamMasksConfig:
    """Settings of the mask generator; a mask must be above the thresholds, 0 switches one off.

    Attributes:
        points_per_side: the picture is prompted at so many points a side, squared (the setting
            published with CaR is 64).
        points_per_batch: points decoded at once; bounds memory and changes nothing else. 0
            chooses by platform.
        pred_iou_threshold: least IoU that the model predicts for a mask, 0 to 1.
        stability_threshold: least IoU of the mask with itself when the threshold of its logits
            moves from `stability_offset` to −`stability_offset`, 0 to 1.
        stability_offset: logits, above 0.
        nms_threshold: masks whose boxes overlap with a better mask's box by more are dropped.
        min_region: pixels; holes and islands smaller than that are removed. 0 leaves them.
        max_masks: at most so many, best first; the result takes N·H·W bytes. 0 keeps all.
        dtype: of the network's computation, "float32" or "bfloat16".
    """

    points_per_side: int = 32
    points_per_batch: int = 0
    pred_iou_threshold: float = 0.88
    stability_threshold: float = 0.95
    stability_offset: float = 1.0
    nms_threshold: float = 0.7
    min_region: int = 0
    max_masks: int = 400
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_types(self)
        for name, low, high in (
            ("points_per_side", 1, 256), ("points_per_batch", 0, 4096),
            ("pred_iou_threshold", 0, 1), ("stability_threshold", 0, 1),
            ("nms_threshold", 0, 1), ("min_region", 0, 2**30), ("max_masks", 0, 2**30),
        ):  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high:
                raise expected(name, f"{low} to {high}", repr(value), "choose one between")
        if not 0 < self.stability_offset < float("inf"):
            raise expected(
                "stability_offset", "a number above 0", f"{self.stability_offset}", "try 1"
            )
        if self.dtype not in DTYPES:
            unknown_name(self.dtype, DTYPES, "dtype")


class _Found(NamedTuple):
    """A mask that may stay: packed bits of its rows, deflated; its box, and its predicted IoU."""

    bits: bytes
    box: Int[np.ndarray, "4"]
    score: float


class SamMasks:
    """Proposes all masks of a picture. Called with UInt8[H W 3], it returns Bool[N H W].

    Attributes:
        config: settings.
        sam: the loaded weights, with name, licence and what they saw.
    """

    def __init__(self, sam: LoadedSam, config: SamMasksConfig | None = None) -> None:
        # The arrays as JAX holds them, so that no second copy of the weights stays on the host.
        params = jax.tree.map(jnp.asarray, dict(sam.params))
        self.sam = dataclasses.replace(sam, params=params)
        self.config = config = SamMasksConfig() if config is None else config
        about, apply = sam.config, sam.model(jnp.dtype(config.dtype)).apply

        def encode(params: Params, canvas: Array, size: Array) -> Array:
            pixels = normalise(canvas, size, about)[None]
            return jnp.asarray(apply({"params": params}, pixels, method=Sam.encode))[0]

        def decode(params: Params, embedding: Array, points: Array) -> tuple[Array, Array]:
            out: Any = apply({"params": params}, embedding, points[:, None], method=Sam.decode)
            low, iou = out
            return low.reshape(-1, *low.shape[2:]), iou.reshape(-1)

        self._encode, self._decode = jax.jit(encode), jax.jit(decode)
        self._measure = jax.jit(_measure)

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> Bool[np.ndarray, "N H W"]:
        """Returns the masks of a picture, best first; N may be 0."""
        return self.scored(image)[0]

    def scored(
        self, image: UInt8[np.ndarray, "H W 3"]
    ) -> tuple[Bool[np.ndarray, "N H W"], Float[np.ndarray, "N"]]:
        """Also returns the IoU that the model predicts for each mask.

        Raises:
            UserError: for no UInt8[H W 3], or sides too different to fit the canvas.
        """
        check_shape(image, "H W 3", "image", dtype="uint8", fix="give one picture in RGB bytes")
        size = (image.shape[0], image.shape[1])
        found = self._unique(self._candidates(np.asarray(image), size))
        if self.config.min_region:
            found = self._cleaned(found, size)
        found = found[: self.config.max_masks or None]
        masks = np.zeros((len(found), *size), bool)
        for mask, one in zip(masks, found, strict=True):
            mask[:] = _unpacked(one, size)
        return masks, np.asarray([one.score for one in found], np.float32)

    def _candidates(self, image: np.ndarray, size: tuple[int, int]) -> list[_Found]:
        """Decodes the grid's points chunk by chunk and keeps the masks above both thresholds."""
        c, side = self.config, self.sam.config.image_size
        canvas = fit(image, side)
        new = np.asarray(fitted_size(size, side), np.int32)
        embedding = self._encode(self.sam.params, canvas, new)
        points = point_grid(c.points_per_side, size, side)
        chunk = c.points_per_batch or _POINTS.get(target(), _MORE_POINTS)
        chunk = min(chunk, len(points))
        masks, stable = self.sam.config.decoder.masks, np.float32(c.stability_threshold or -1)
        pair = jax.device_put(mask_matrices(size, self.sam.config))
        at_once = max(1, min(_MOST_AT_ONCE, _PIXELS // (size[0] * size[1])))
        found: list[_Found] = []
        for start in range(0, len(points), chunk):
            some = points[start : start + chunk]
            # The last chunk is filled up, so that one program serves all.
            full = np.concatenate([some, np.repeat(some[-1:], chunk - len(some), axis=0)])
            low, iou = self._decode(self.sam.params, embedding, full)
            iou = np.asarray(iou)[: len(some) * masks]
            least = c.pred_iou_threshold or -np.inf
            good = np.flatnonzero(iou > np.float32(least))
            for first in range(0, len(good), at_once):
                chosen = good[first : first + at_once]
                padded = np.resize(chosen, at_once).astype(np.int32)
                offset = np.float32(c.stability_offset)
                out = jax.device_get(self._measure(low, padded, *pair, offset))
                for i, which in enumerate(chosen):
                    bits, inner, outer, area, box = (part[i] for part in out)
                    if area and inner > stable * outer:
                        packed = zlib.compress(bits.tobytes(), 1)
                        found.append(_Found(packed, box, float(iou[which])))
        return found

    def _unique(self, found: list[_Found]) -> list[_Found]:
        boxes = np.asarray([one.box for one in found], np.float32).reshape(-1, 4)
        scores = np.asarray([one.score for one in found], np.float32)
        return [found[i] for i in box_nms(boxes, scores, self.config.nms_threshold)]

    def _cleaned(self, found: list[_Found], size: tuple[int, int]) -> list[_Found]:
        """Removes small regions; of masks that become copies, an untouched one stays."""
        cleaned, touched = [], []
        for one in found:
            mask = _unpacked(one, size)
            new = remove_small(mask, self.config.min_region)
            touched.append(bool((new != mask).any()))
            if touched[-1]:
                rows, columns = (np.flatnonzero(new.any(axis=axis)) for axis in (1, 0))
                box = np.asarray([columns[0], rows[0], columns[-1], rows[-1]], np.int32)
                bits = zlib.compress(np.packbits(new, axis=-1).tobytes(), 1)
                one = _Found(bits, box, one.score)
            cleaned.append(one)
        boxes = np.asarray([one.box for one in cleaned], np.float32).reshape(-1, 4)
        untouched = 1 - np.asarray(touched, np.float32)
        kept = np.sort(box_nms(boxes, untouched, self.config.nms_threshold))
        return [cleaned[i] for i in kept]


def _measure(
    low: Float[Array, "Q m m"],
    chosen: Int[Array, "K"],
    rows: Float[Array, "H m"],
    columns: Float[Array, "W m"],
    offset: Float[Array, ""],
) -> tuple[Array, ...]:
    """Brings chosen logits to the picture's size and measures them there.

    Returns:
        UInt8[K H ceil(W/8)], the masks as packed bits; pixels above `offset`, above −`offset` and
        inside, Int32[K] each; boxes (x0, y0, x1, y1) of their first and last pixels, Int32[K 4].
    """
    logits = apply_matrices(low[chosen], rows, columns)
    masks = logits > 0
    inner, outer, area = (
        above.sum(axis=(1, 2), dtype=jnp.int32)
        for above in (logits > offset, logits > -offset, masks)
    )
    ends = []
    for axis in (1, 2):
        along = masks.any(axis=axis)
        last = along.shape[1] - 1 - along[:, ::-1].argmax(axis=1)
        ends.append((along.argmax(axis=1), last))
    (x0, x1), (y0, y1) = ends
    boxes = jnp.stack([x0, y0, x1, y1], axis=1).astype(jnp.int32)
    return jnp.packbits(masks, axis=-1), inner, outer, area, boxes


def _unpacked(one: _Found, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    bits = np.frombuffer(zlib.decompress(one.bits), np.uint8).reshape(size[0], -1)
    return np.unpackbits(bits, axis=-1, count=size[1]).astype(bool)


def remove_small(mask: Bool[np.ndarray, "H W"], area: int) -> Bool[np.ndarray, "H W"]:
    """Fills holes and drops islands of fewer than `area` pixels; the largest island stays.

    Source: Segment Anything's own generator; parts hang together across corners too.
    """
    mask = mask | _small(~mask, area)[0]
    small, largest = _small(mask, area)
    return mask & ~small if (mask & ~small).any() else largest


def _small(inside: np.ndarray, area: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the parts of fewer than `area` pixels, and the largest part."""
    found: Any = ndimage.label(inside, structure=np.ones((3, 3)))
    parts, count = found
    if not count:
        return np.zeros_like(inside), inside
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return (sizes < area)[parts] & inside, parts == sizes.argmax()


def load(model: str | os.PathLike[str] | LoadedSam, **settings: Any) -> SamMasks:
    """Builds the mask generator.

    Args:
        model: "SAM-B", "SAM-L", "SAM-H", or a folder that transformers saved (config.json,
            preprocessor_config.json and the weights).
        settings: fields of `SamMasksConfig`.

    Returns:
        A callable: UInt8[H W 3] to Bool[N H W], best first.

    Raises:
        UserError: for an unknown name or setting (with the closest one), a value out of range, or
            weights that are not here or do not fit.
    """
    config = from_names(SamMasksConfig, settings, None, {})
    return SamMasks(load_sam(model), config)

"""Visual prompts: what CaR draws on an image to point CLIP at a mask.

The outside of the mask is blurred, made gray or blackened, and then an ellipse, a rectangle or
the mask's contour is drawn in red. The order is fixed, whatever order the kinds are listed in. What
happens outside the mask does not depend on the text, so one `background` image serves all masks.
All arithmetic is in integers and equals OpenCV 4 in every byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from openseg_jax.errors import check_shape, unknown_name
from openseg_jax.ops import raster
from openseg_jax.types import Array, Bool, Float, Int, UInt8

__all__ = [
    "KINDS",
    "background",
    "blur",
    "contour",
    "draw_prompts",
    "fill_holes",
    "gray",
    "mask_geometry",
    "masks_from_maps",
]

KINDS = ("blur", "gray", "black", "circle", "rectangle", "contour")
_OUTSIDE = KINDS[:3]
_RED = (255, 0, 0)
# OpenCV's Gaussian of 15 taps in 8-bit fixed point; its sum is 256.
_BLUR_KERNEL = (1, 3, 6, 12, 20, 30, 36, 40, 36, 30, 20, 12, 6, 3, 1)
_LUMA = (9798, 19235, 3735)  # 0.299, 0.587, 0.114 in 15 bits


def masks_from_maps(
    maps: Float[Array, "K H W"], threshold: Any, *, valid: Bool[Array, "H W"] | None = None
) -> tuple[Bool[Array, "K H W"], Bool[Array, "K"]]:
    """Binarises full-size activation maps, and says which images get a prompt at all.

    Args:
        maps: in [0, 1].
        threshold: η (`mask_threshold`); strictly above counts.
        valid: pixels that exist; None means all.

    Returns:
        Masks, and Bool[K]: False where a map sums to 1 or less, i.e. is practically empty. The
        image is then classified without a prompt, as the reference does.
    """
    if valid is not None:
        maps = jnp.where(valid, maps, 0)
    return maps > threshold, maps.sum(axis=(1, 2)) > 1


def _reflect(index: Int[Array, "n"], length: Any) -> Int[Array, "n"]:
    """Folds indices into [0, length) by mirrors on the first and last sample (reflect 101)."""
    period = jnp.maximum(2 * (jnp.asarray(length, jnp.int32) - 1), 1)
    index = jnp.mod(index, period)
    return jnp.where(length == 1, 0, jnp.minimum(index, period - index))


def _blur_axis(x: Int[Array, "H W D"], axis: int, length: Any) -> Int[Array, "H W D"]:
    reach, n = len(_BLUR_KERNEL) // 2, x.shape[axis]
    index = _reflect(jnp.arange(-reach, n + reach, dtype=jnp.int32), length)
    wide = jnp.take(x, index, axis=axis)
    kernel = jnp.asarray(_BLUR_KERNEL, jnp.int32)
    # A loop rather than 15 added slices: XLA would fuse those into whatever reads the result,
    # and blur the image again for every mask.
    return lax.fori_loop(
        0,
        len(_BLUR_KERNEL),
        lambda i, total: total + kernel[i] * lax.dynamic_slice_in_dim(wide, i, n, axis=axis),
        jnp.zeros_like(x),
    )


def blur(
    image: UInt8[Array, "H W 3"], *, size: tuple[Any, Any] | None = None
) -> UInt8[Array, "H W 3"]:
    """Blurs with a Gaussian of 15 x 15 pixels, sigma 2.6, mirrored at the border.

    Args:
        image: bytes.
        size: true (h, w) in a padded canvas, ints or int32 scalars; pixels beyond it come out
            undefined.

    Source: `cv2.GaussianBlur(image, (15, 15), 0)`, whose integer kernel this is; a float kernel
    is off by one in up to 17 % of the bytes.
    """
    h, w = image.shape[:2] if size is None else size
    x = _blur_axis(_blur_axis(image.astype(jnp.int32), 1, w), 0, h)
    return ((x + (1 << 15)) >> 16).astype(jnp.uint8)


def gray(image: UInt8[Array, "*B 3"], *, swapped: bool = False) -> UInt8[Array, "*B 3"]:
    """Replaces colours by their luma, repeated over the channels.

    Args:
        image: RGB bytes, channels last.
        swapped: True weighs red as blue and blue as red: the reference passes RGB to a
            conversion that expects BGR.

    Source: OpenCV's 15-bit luma with rounding.
    """
    red, green, blue = reversed(_LUMA) if swapped else _LUMA
    x = image.astype(jnp.int32)
    luma = (red * x[..., 0] + green * x[..., 1] + blue * x[..., 2] + (1 << 14)) >> 15
    return jnp.broadcast_to(luma[..., None], image.shape).astype(jnp.uint8)


def _check_kinds(kinds: Iterable[str]) -> frozenset[str]:
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    for kind in kinds:
        if kind not in KINDS:
            unknown_name(kind, KINDS, "visual prompt")
    return frozenset(kinds)


def background(
    image: UInt8[Array, "H W 3"],
    kinds: Iterable[str],
    *,
    size: tuple[Any, Any] | None = None,
    swapped_gray: bool = False,
) -> UInt8[Array, "H W 3"]:
    """Makes the image that shows outside of a mask: blurred, then gray, then black, as asked.

    It does not depend on masks or texts: make it once an image and give it to `draw_prompts`.

    Args:
        image: RGB bytes.
        kinds: any of `KINDS`; those that draw outlines do nothing here.
        size: true (h, w) in a padded canvas.
        swapped_gray: see `gray`.
    """
    kinds = _check_kinds(kinds)
    if "blur" in kinds:
        image = blur(image, size=size)
    if "gray" in kinds:
        image = gray(image, swapped=swapped_gray)
    return jnp.zeros_like(image) if "black" in kinds else image


def mask_geometry(mask: Bool[Array, "H W"]) -> tuple[Array, Array, Array, Array]:
    """Measures a mask: (centre y, centre x, height, width), int32 scalars, pixels.

    The centre is the centroid truncated to an integer, exactly; the extents are those of the
    bounding box. An empty mask gives zeros.
    """
    sides = []
    for axis in (1, 0):
        counts = mask.sum(axis=axis, dtype=jnp.int32)
        at = jnp.arange(counts.shape[0], dtype=jnp.int32)
        total = jnp.maximum(counts.sum(), 1)
        # Σ at·counts may pass 2**31. Near a float guess the rest fits, and a sum of wrapped
        # int32 is right whenever its true value fits.
        guess = (at * counts.astype(jnp.float32)).sum() / total.astype(jnp.float32)
        guess = guess.astype(jnp.int32)
        centre = guess + ((at - guess) * counts).sum(dtype=jnp.int32) // total
        filled = counts > 0
        last = jnp.where(filled, at, -1).max()
        first = jnp.where(filled, at, counts.shape[0]).min()
        any_filled = filled.any()
        sides.append((jnp.where(any_filled, centre, 0), jnp.where(any_filled, last - first + 1, 0)))
    (cy, height), (cx, width) = sides
    return cy, cx, height, width


def fill_holes(mask: Bool[Array, "H W"]) -> Bool[Array, "H W"]:
    """Fills what the mask encloses, i.e. what no 4-connected path joins to the outside."""

    def sweep(reached: Array, axis: int, reverse: bool) -> Array:
        # Light shines along one direction from every reached pixel until the mask stops it.
        at = jnp.arange(mask.shape[axis], dtype=jnp.int32)
        at = (at[::-1] if reverse else at).reshape((-1, 1) if axis == 0 else (1, -1))
        seen = lax.cummax(jnp.where(reached, at, -1), axis=axis, reverse=reverse)
        wall = lax.cummax(jnp.where(mask, at, -1), axis=axis, reverse=reverse)
        return seen > wall

    def spread(state: tuple[Array, Array]) -> tuple[Array, Array]:
        reached, _ = state
        wider = reached
        for axis in (0, 1):
            for reverse in (False, True):
                wider = wider | sweep(wider, axis, reverse)
        return wider, jnp.any(wider != reached)

    y = jnp.arange(mask.shape[0])[:, None]
    x = jnp.arange(mask.shape[1])[None, :]
    border = (y == 0) | (x == 0) | (y == mask.shape[0] - 1) | (x == mask.shape[1] - 1)
    reached, _ = lax.while_loop(lambda s: s[1], spread, (border & ~mask, jnp.bool_(True)))
    return ~reached


def contour(mask: Bool[Array, "H W"], *, size: tuple[Any, Any] | None = None) -> Bool[Array, "H W"]:
    """Marks the outer boundary pixels of a mask, holes filled.

    A pixel counts when one of its 4 neighbours is outside the filled mask or outside the image.
    """
    height, width = mask.shape
    true_h, true_w = mask.shape if size is None else size
    inside = (jnp.arange(height) < true_h)[:, None] & (jnp.arange(width) < true_w)[None, :]
    # Padding belongs to the outside: from there the flood also enters a padded image.
    filled = jnp.pad(fill_holes(jnp.pad(mask & inside, 1))[1:-1, 1:-1], 1)
    core = filled[:-2, 1:-1] & filled[2:, 1:-1] & filled[1:-1, :-2] & filled[1:-1, 2:]
    return filled[1:-1, 1:-1] & ~core


def draw_prompts(
    image: UInt8[Array, "H W 3"],
    masks: Bool[Array, "K H W"],
    kinds: Iterable[str],
    *,
    outside: UInt8[Array, "H W 3"] | None = None,
    use: Bool[Array, "K"] | None = None,
    size: tuple[Any, Any] | None = None,
    swapped_gray: bool = False,
    empty_quirk: bool = False,
) -> UInt8[Array, "K H W 3"]:
    """Draws the prompts of K masks on copies of an image.

    Args:
        image: RGB bytes.
        masks: what each prompt points at.
        kinds: any of `KINDS`, in any order; they are applied in the order of `KINDS`.
        outside: from `background`, when it was made before; None makes it here.
        use: False rows return the image unprompted, see `masks_from_maps`.
        size: true (h, w) where the image sits at the top left of a padded canvas. Pixels beyond
            it are returned as they came.
        swapped_gray: see `gray`.
        empty_quirk: what an empty mask (with `use` True) gives. False returns the unprompted
            image. True returns the background everywhere, as the reference does for kinds without
            circle and rectangle; with those it crashes.

    Returns:
        UInt8[K H W 3].

    Source: car.md §4.
    """
    check_shape(image, "H W 3", "image", dtype="uint8")
    shape = image.shape[:2]
    kinds = _check_kinds(kinds)
    if outside is None and kinds & set(_OUTSIDE):
        outside = background(image, kinds, size=size, swapped_gray=swapped_gray)
    exists = None
    if size is not None:
        rows, columns = jnp.arange(shape[0]) < size[0], jnp.arange(shape[1]) < size[1]
        exists = rows[:, None] & columns[None, :]

    def draw(mask: Bool[Array, "H W"], wanted: Bool[Array, ""]) -> UInt8[Array, "H W 3"]:
        if exists is not None:
            mask = mask & exists
        filled = mask.any()
        wanted = wanted if empty_quirk else wanted & filled
        out = image
        if outside is not None and kinds & set(_OUTSIDE):
            kept = mask if exists is None else mask | ~exists
            out = jnp.where(kept[..., None], image, outside)
        line = _outlines(mask, kinds, size) & filled
        out = jnp.where(line[..., None], jnp.asarray(_RED, jnp.uint8), out)
        return jnp.where(wanted, out, image)

    if use is None:
        use = jnp.ones(masks.shape[0], bool)
    return jax.vmap(draw)(masks, use)


def _outlines(
    mask: Bool[Array, "H W"], kinds: frozenset[str], size: tuple[Any, Any] | None
) -> Bool[Array, "H W"]:
    """Joins all outlines that were asked for; they share one colour."""
    line = jnp.zeros(mask.shape, bool)
    shape = (mask.shape[0], mask.shape[1])
    if kinds & {"circle", "rectangle"}:
        cy, cx, height, width = mask_geometry(mask)
        ry, rx = height // 2, width // 2
        if "circle" in kinds:
            line |= raster.ellipse_outline((cy, cx), (ry, rx), shape, size=size)
        if "rectangle" in kinds:
            low, high = (cy - ry, cx - rx), (cy + ry, cx + rx)
            line |= raster.rectangle_outline(low, high, shape, size=size)
    if "contour" in kinds:
        line |= contour(mask, size=size)
    return line

"""Random views drawn once for a picture and all that is drawn on it: masks, label maps, depths.

big_vision's own random operations see one array at a time, so that a mask would be flipped when
its picture is not. Each operation here is `factory(arguments) -> op(data, rng) -> data` on dicts
of NumPy arrays; `compat.big_vision` puts them into big_vision's registry, and
`compat.pp_string.from_bv_string` knows them too.

Pictures are [H W C] and resized as TensorFlow does (`ops.resize_tf`); what lies on them is [H W]
or [H W C] of any dtype and takes the nearest neighbour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from openseg_jax.errors import UserError, expected
from openseg_jax.inputs.augment import IGNORE, Views
from openseg_jax.inputs.crops import random_crop
from openseg_jax.ops.resize_tf import resize_tf, to_dtype

__all__ = ["JOINT", "Data", "Op", "two_sides"]

Data = dict[str, Any]
Op = Callable[[Data, np.random.Generator], Data]
Keys = str | Sequence[str]


def two_sides(size: Any, what: str = "size") -> tuple[int, int]:
    """Reads a size, one number for a square or (H, W), in pixels."""
    sides = (size, size) if np.ndim(size) == 0 else tuple(size)
    whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in sides)
    if len(sides) != 2 or not whole or min(sides) < 1:
        raise expected(what, "pixels, or (height, width)", repr(size), "e.g. 224")
    return int(sides[0]), int(sides[1])


def _names(keys: Keys) -> tuple[str, ...]:
    return (keys,) if isinstance(keys, str) else tuple(keys)


def _size_of(data: Data, names: Sequence[str]) -> tuple[int, int]:
    sizes = {}
    for name in names:
        if name not in data:
            raise UserError(f"{name}: no such key; the example has {', '.join(sorted(data))}")
        sizes[name] = tuple(np.shape(data[name])[:2])
        if np.ndim(data[name]) not in (2, 3):
            raise expected(name, "[H W] or [H W C]", f"{np.shape(data[name])}", "squeeze it first")
    if len(set(sizes.values())) != 1:
        raise expected(
            "keys", "one height and width", f"{sizes}", "resize before the first joint operation"
        )
    return sizes[names[0]]


def _map(data: Data, names: Sequence[str], change: Callable[[np.ndarray], np.ndarray]) -> Data:
    return {**data, **{name: change(np.asarray(data[name])) for name in names}}


def _resized(data: Data, images: Sequence[str], masks: Sequence[str], size, **how: Any) -> Data:
    def picture(x: np.ndarray) -> np.ndarray:
        planes = x if x.ndim == 3 else x[..., None]
        out = to_dtype(resize_tf(planes, size, **how), x.dtype)
        return out if x.ndim == 3 else out[..., 0]

    data = _map(data, images, picture)
    return _map(data, masks, lambda x: resize_tf(x, size, "nearest"))


def joint_resize(
    size: Any,
    method: str = "bilinear",
    antialias: bool = False,
    images: Keys = "image",
    masks: Keys = "labels",
) -> Op:
    """Resizes pictures to `size` (aspect not kept) and what is drawn on them with them."""
    sides, images, masks = two_sides(size), _names(images), _names(masks)

    def op(data: Data, rng: np.random.Generator) -> Data:
        _size_of(data, (*images, *masks))
        return _resized(data, images, masks, sides, method=method, antialias=antialias)

    return op


def joint_resize_small(
    smaller_size: int,
    method: str = "area",
    antialias: bool = False,
    images: Keys = "image",
    masks: Keys = "labels",
) -> Op:
    """Resizes so that the smaller side is `smaller_size` pixels, keeping the aspect ratio."""
    short, images, masks = two_sides(smaller_size)[0], _names(images), _names(masks)

    def op(data: Data, rng: np.random.Generator) -> Data:
        height, width = _size_of(data, (*images, *masks))
        factor = np.float32(short) / np.float32(min(height, width))
        sides = [int(np.round(np.float32(n) * factor)) for n in (height, width)]
        return _resized(
            data, images, masks, (sides[0], sides[1]), method=method, antialias=antialias
        )

    return op


def joint_flip_lr(chance: float = 0.5, images: Keys = "image", masks: Keys = "labels") -> Op:
    """Swaps left and right of all keys or of none."""
    names = (*_names(images), *_names(masks))

    def op(data: Data, rng: np.random.Generator) -> Data:
        _size_of(data, names)
        return _map(data, names, lambda x: x[:, ::-1]) if rng.random() < chance else data

    return op


def joint_random_crop(crop_size: Any, images: Keys = "image", masks: Keys = "labels") -> Op:
    """Cuts one window of `crop_size` out of all keys."""
    sides = two_sides(crop_size, "crop_size")
    names = (*_names(images), *_names(masks))

    def op(data: Data, rng: np.random.Generator) -> Data:
        size = _size_of(data, names)
        if size[0] < sides[0] or size[1] < sides[1]:
            raise expected("crop_size", f"at most {size}", f"{sides}", "resize the picture first")
        top, left = (int(rng.integers(n - m + 1)) for n, m in zip(size, sides, strict=True))
        return _map(data, names, lambda x: x[top : top + sides[0], left : left + sides[1]])

    return op


def joint_inception_crop(
    size: Any = None,
    area_min: float = 5,
    area_max: float = 100,
    ratio_min: float = 0.75,
    ratio_max: float = 4 / 3,
    method: str = "bilinear",
    antialias: bool = False,
    images: Keys = "image",
    masks: Keys = "labels",
) -> Op:
    """Cuts one box of random area (in percent) and aspect out of all keys, and resizes it.

    Source: `inputs.crops.random_crop` (torchvision's rule; TensorFlow draws its boxes otherwise).
    """
    sides = None if size is None else two_sides(size)
    images, masks = _names(images), _names(masks)

    def op(data: Data, rng: np.random.Generator) -> Data:
        box = random_crop(
            rng, _size_of(data, (*images, *masks)),
            scale=(area_min / 100, area_max / 100), ratio=(ratio_min, ratio_max),
        )  # fmt: skip
        rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
        data = _map(data, (*images, *masks), lambda x: x[rows, columns])
        if sides is None:
            return data
        return _resized(data, images, masks, sides, method=method, antialias=antialias)

    return op


def joint_views(
    crop: int = 640,
    short_sides: Sequence[int] = tuple(range(320, 961, 64)),
    long_side: int = 2560,
    flip: float = 0.5,
    colours: bool = True,
    ignore: int | None = None,
    image: str = "image",
    labels: str = "labels",
) -> Op:
    """Draws a training view as MaskFormer's family does: resize, crop, colours, flip, pad.

    Args:
        crop, short_sides, long_side, flip, colours: see `inputs.augment.Views`.
        ignore: label of the padding; None is the largest number of an unsigned label map, -1
            of others.
        image, labels: keys, UInt8[H W 3], and whole numbers [H W] or [H W 1].
    """
    views = Views(crop, tuple(short_sides), long_side, flip, colours)

    def op(data: Data, rng: np.random.Generator) -> Data:
        _size_of(data, (image, labels))
        drawn = np.asarray(data[labels])
        plane = drawn[..., 0] if drawn.ndim == 3 else drawn
        picture, plane = views.draw(rng, np.asarray(data[image]), plane.astype(np.int32) + 1)
        fill = ignore
        if fill is None:
            fill = np.iinfo(drawn.dtype).max if drawn.dtype.kind == "u" else IGNORE
        # One is added on the way in, so that -1 means padding and no label of the data's.
        plane = np.where(plane == IGNORE, fill, plane - 1).astype(drawn.dtype)
        return {**data, image: picture, labels: plane if drawn.ndim == 2 else plane[..., None]}

    return op


JOINT: dict[str, Callable[..., Op]] = {
    function.__name__: function
    for function in (
        joint_resize, joint_resize_small, joint_flip_lr, joint_random_crop, joint_inception_crop,
        joint_views,
    )
}  # fmt: skip

"""What every segmentation method is to its callers, and the table of methods."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from openseg_jax.errors import expected, unknown_name
from openseg_jax.types import Array, Bool, Int, Masks, Params, UInt8

__all__ = [
    "METHODS", "Segmenter", "check_dtype", "is_traced", "load_segmenter", "one_by_one",
    "remembered", "true_size", "true_sizes",
]  # fmt: skip

Text = TypeVar("Text")

# name: module and function that builds it from (model, **settings). Imported when asked for.
METHODS: dict[str, tuple[str, str]] = {
    "car": ("openseg_jax.methods.car", "load"),
    "clip_dense": ("openseg_jax.methods.clip_dense", "load"),
    "maft": ("openseg_jax.methods.maft", "load"),
    "segclip": ("openseg_jax.methods.segclip", "load"),
}


@runtime_checkable
class Segmenter(Protocol):
    """Segments images by free text.

    A method may also have `threshold`, what its masks want of `to_label_map` (0.5 where it has
    none), `rounds`, False where all labels have to compete at once, however many, and `host_only`,
    True where `segment` cannot run under `jax.jit` as it is set up.

    Attributes:
        params: what `segment` takes; a pytree of arrays.
    """

    params: Params

    def classes(self, names: Sequence[str], background: Sequence[str] | None = None) -> Any:
        """Encodes a vocabulary once, on the host; `background` None takes the method's own."""
        ...

    def segment(
        self,
        params: Params,
        image: UInt8[Array, "B H W 3"],
        text: Any,
        valid: Bool[Array, "B H W"] | None = None,
    ) -> Masks:
        """Segments a batch. Pure: runs under `jax.jit` with all arguments traced."""
        ...


def load_segmenter(method: str, model: Any, **settings: Any) -> Segmenter:
    """Builds a method on given weights.

    Args:
        method: a key of `METHODS`.
        model: a name, a path, or an already loaded CLIP.
        settings: of the method; the model folder's own defaults for it are overridden.

    Raises:
        UserError: for an unknown method, model or setting, with the closest name.
    """
    if method not in METHODS:
        unknown_name(method, METHODS, "method")
    module, function = METHODS[method]
    return getattr(importlib.import_module(module), function)(model, **settings)


def check_dtype(dtype: str) -> None:
    """Raises `UserError` for a dtype that no tower computes in."""
    if dtype not in ("float32", "bfloat16"):
        raise expected("dtype", "'float32' or 'bfloat16'", repr(dtype), "try 'float32'")


def remembered(
    build: Callable[[Sequence[str], Sequence[str] | None], Text],
) -> Callable[[Sequence[str], Sequence[str] | None], Text]:
    """Keeps the vocabularies that were used last, 8 of them.

    Args:
        build: encodes (names, background).
    """
    kept = functools.lru_cache(maxsize=8)(build)

    def frozen(texts: Sequence[str] | None) -> Any:
        # A bare text stays one, for `build` to refuse.
        return texts if texts is None or isinstance(texts, str) else tuple(texts)

    return lambda names, background: kept(frozen(names), frozen(background))


def is_traced(*trees: Any) -> bool:
    """Tells calls inside `jax.jit`; with plain arrays, methods call what they have compiled."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))


def one_by_one(
    segment: Callable[[Any], Masks],
    image: UInt8[np.ndarray, "B H W 3"],
    valid: Bool[np.ndarray, "B H W"],
) -> Masks:
    """Segments the images of a padded batch each at its own size, and pads their masks.

    Args:
        segment: from UInt8[1 h w 3] to masks.
        image: each at the top left of the canvas.
        valid: pixels that exist.
    """
    rows = []
    for canvas, exists in zip(image, valid, strict=True):
        h, w = true_size(exists)
        masks = segment(canvas[None, :h, :w])
        more = [(0, 0), (0, 0), (0, canvas.shape[0] - h), (0, canvas.shape[1] - w)]
        rows.append(dataclasses.replace(masks, probs=jnp.pad(masks.probs, more)))
    return jax.tree.map(lambda *x: jnp.concatenate(x), *rows)


def true_size(valid: Bool[np.ndarray, "H W"]) -> tuple[int, int]:
    """Returns the (height, width) of the image that lies at the top left of a canvas.

    Raises:
        UserError: for pixels of any other shape, or none.
    """
    height, width = int(valid.any(axis=1).sum()), int(valid.any(axis=0).sum())
    inside = bool(valid[:height, :width].all())
    if height * width == 0 or not inside or int(valid.sum()) != height * width:
        raise expected(
            "valid", "a rectangle at the top left", "another shape",
            "put each image at the top left of the canvas",
        )  # fmt: skip
    return height, width


def true_sizes(valid: Bool[Array, "B H W"]) -> Int[Array, "B 2"]:
    """Measures the images at the top left of canvases, where `valid` is traced.

    A picture of nothing, which fills up a batch, gets one pixel: a size of 0 divides nothing.
    """
    sizes = jnp.stack([valid.any(axis=2).sum(axis=1), valid.any(axis=1).sum(axis=1)], axis=1)
    return jnp.maximum(sizes, 1).astype(jnp.int32)

"""Segmenting by windows: what dense CLIP and SegCLIP do around their readers.

A reader is the computation of such a method: hashable, so that segmenters of equal settings share
what was compiled, and pure.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import jax
import numpy as np

from openseg_jax.errors import UserError, check_shape
from openseg_jax.methods.base import is_traced, one_by_one, true_size
from openseg_jax.methods.windows import Plan
from openseg_jax.types import Array, Bool, Masks, Params, UInt8

__all__ = ["Reader", "segment"]


class Reader(Protocol):
    """The computation of a method with windows."""

    @property
    def plan(self) -> Plan:
        """Sizes."""
        ...

    def segment(self, params: Params, image: Any, text: Any, valid: Any) -> Masks:
        """Segments a batch, all arguments traced or not; one mask and one score a class."""
        ...


# The jitted edge of these methods.
@functools.partial(jax.jit, static_argnames="reader")
def _segment(reader: Reader, params: Params, image: Any, text: Any, valid: Any) -> Masks:
    return reader.segment(params, image, text, valid)


def segment(
    reader: Reader,
    params: Params,
    image: UInt8[Array, "B H W 3"],
    text: Any,
    valid: Bool[Array, "B H W"] | None,
    *,
    alone: bool,
) -> Masks:
    """Segments a batch of images; with plain arrays by the compiled form.

    Args:
        reader, params: of the method.
        image: RGB bytes; smaller images sit at the top left of the canvas.
        text: a vocabulary with `count` and `anonymous`.
        valid: pixels that exist, a rectangle at the top left; None means all.
        alone: with plain arrays, images that do not fill their canvas are segmented one by one,
            each at its own size. Whole mode has to.

    Returns:
        Masks of the `text.count` classes, without padding.

    Raises:
        UserError: for images of another shape, or whole mode with a traced `valid`.
    """
    check_shape(image, "B H W 3", "image", dtype="uint8", fix="give a batch of RGB bytes")
    plain = text.anonymous()
    if is_traced(params, image, text, valid):
        if valid is not None and reader.plan.whole:
            raise UserError(
                "valid: whole mode needs to know the size of an image before it is traced; "
                "use mode 'slide', or images that fill their canvas"
            )
        masks = reader.segment(params, image, plain, valid)
    elif valid is None:
        masks = _segment(reader, params, image, plain, None)
    elif alone or reader.plan.whole:
        one = functools.partial(_segment, reader, params, text=plain, valid=None)
        masks = one_by_one(one, np.asarray(image), np.asarray(valid))
    else:
        for exists in np.asarray(valid):
            true_size(exists)
        masks = _segment(reader, params, image, plain, valid)
    scores: Any = masks.scores
    count = text.count
    return Masks(masks.probs[:, :count], scores[:, :count], masks.valid[:, :count])

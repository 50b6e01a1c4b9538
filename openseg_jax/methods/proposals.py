"""Where MAFT's masks come from: one interface, and the table of sources.

A source proposes masks; it need not know what they show. MAFT classifies them afterwards.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp

from openseg_jax.errors import UserError, check_shape, unknown_name
from openseg_jax.types import Array, Bool, Float, Params, UInt8

__all__ = ["SOURCES", "GivenMasks", "ProposalSource", "load_source"]

# name: module and function that builds it from (loaded CLIP, **settings). Imported when asked for.
SOURCES: dict[str, tuple[str, str]] = {
    "regions": ("openseg_jax.methods.proposals_regions", "load"),
    "masks": ("openseg_jax.methods.proposals", "load_masks"),
    "generator": ("openseg_jax.methods.proposals_generator", "load"),
    "mask2former": ("openseg_jax.methods.proposals_generator", "load_mask2former"),
}


@runtime_checkable
class ProposalSource(Protocol):
    """Proposes soft masks for a batch of images.

    A source that also says what its masks show has a method `propose_scored` with the same
    arguments, which returns a third array: class probabilities Float[B M C], for MAFT's
    score ensemble.

    Attributes:
        params: what `propose` takes; a pytree of arrays, {} where there is nothing to learn.
    """

    params: Params

    def propose(
        self,
        params: Params,
        image: UInt8[Array, "B H W 3"],
        text: Float[Array, "G E"],
        valid: Bool[Array, "B H W"] | None = None,
    ) -> tuple[Float[Array, "B M h w"], Bool[Array, "B M"]]:
        """Proposes masks. Pure: runs under `jax.jit` with all arguments traced.

        Args:
            params: `self.params`.
            image: RGB bytes; smaller images sit at the top left of the canvas.
            text: unit-length rows, one a class, and the non-object row last where the weights
                have one. Rows of zeros are padding. Sources that need no words ignore it.
            valid: pixels that exist; None means all.

        Returns:
            Soft masks in [0, 1] that cover the whole canvas, at any resolution, M fixed; and
            which of them exist.
        """
        ...


class GivenMasks:
    """Hands on masks that somebody else has drawn.

    Attributes:
        params: {"masks": Float[B M h w] in [0, 1]}, or {} until masks are given.
    """

    def __init__(self, masks: Float[Array, "B M h w"] | None = None) -> None:
        self.params: Params = {}
        if masks is not None:
            check_shape(masks, "B M h w", "masks", fix="give one stack of masks an image")
            self.params = {"masks": jnp.asarray(masks, jnp.float32)}

    def propose(
        self,
        params: Params,
        image: UInt8[Array, "B H W 3"],
        text: Float[Array, "G E"],
        valid: Bool[Array, "B H W"] | None = None,
    ) -> tuple[Float[Array, "B M h w"], Bool[Array, "B M"]]:
        """Returns the masks of `params`; one that is 0 everywhere does not exist."""
        if "masks" not in params:
            raise UserError(
                "masks: the source 'masks' was given none; pass masks=Float[B M h w], or "
                "proposals='regions'"
            )
        masks = params["masks"]
        check_shape(masks, f"{image.shape[0]} M h w", "masks", fix="give one stack an image")
        return masks, (masks > 0).any(axis=(2, 3))


def load_masks(model: Any, *, masks: Any = None) -> GivenMasks:
    """Builds the source "masks"; the weights play no part."""
    return GivenMasks(masks)


def load_source(name: str, model: Any, **settings: Any) -> ProposalSource:
    """Builds a source of proposals.

    Args:
        name: a key of `SOURCES`.
        model: a loaded CLIP, whose extra weights a learnt generator is taken from.
        settings: of the source.

    Raises:
        UserError: for an unknown source or setting, with the closest name.
    """
    if name not in SOURCES:
        unknown_name(name, SOURCES, "proposals")
    module, function = SOURCES[name]
    return getattr(importlib.import_module(module), function)(model, **settings)

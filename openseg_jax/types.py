"""Array aliases, the glossary of dimension letters, and the one result type.

Letters used in every annotation and docstring (channels are last everywhere):

| letter | dimension | letter | dimension |
|---|---|---|---|
| B | batch | H W | image height, width in pixels |
| h w | feature grid | L | patch tokens, L = h·w |
| N | all tokens of an image (class token and patches) | T | text tokens of a sentence |
| D | width of a tower | E | joint image-text embedding |
| C | classes or texts | K | texts still alive, or ground-truth segments |
| M | masks | A | attention heads |
| P | patch side in pixels | F | hidden width of an MLP |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

__all__ = ["Array", "Bool", "Float", "Int", "Key", "Masks", "Params", "UInt8"]

if TYPE_CHECKING:
    # Host code hands NumPy arrays where device code hands JAX's, and both are right. A static
    # checker cannot see shapes anyway: the annotations are checked at run time in tests.
    Array = Any

Key = PRNGKeyArray
# A nested mapping of arrays: the `params` collection of a linen module.
Params = Mapping[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Masks:
    """What every method returns for a batch of images.

    Attributes:
        probs: Float[B M H W] in [0, 1]: soft masks at the size of the image.
        scores: Float[B M C], probability of class c for mask m; or Float[B M] when mask m
            stands for class m alone (M == C, as in CaR); or None when masks carry no scores.
        valid: Bool[B M]; False rows are padding or texts that did not survive. They are never
            painted and never scored.
    """

    probs: Float[Array, "B M H W"]
    scores: Float[Array, "B M ..."] | None
    valid: Bool[Array, "B M"]

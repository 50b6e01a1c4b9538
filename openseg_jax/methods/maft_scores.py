"""From embeddings of masks to class probabilities, and their ensemble with a generator's.

Source: maft.md §1.6 and §4.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from openseg_jax.models.clip import normalize
from openseg_jax.types import Array, Bool, Float

__all__ = ["class_logits", "class_probabilities", "ensemble"]


def class_logits(
    embeddings: Float[Array, "... M E"], text: Float[Array, "C E"], *, temperature: float
) -> Float[Array, "... M C"]:
    """Computes temperature · cosine of every mask with every class, in float32.

    Args:
        embeddings: of the masks, not scaled to unit length.
        text: unit-length rows.
        temperature: 100 in the published system, whatever the weights' own logit scale.
    """
    unit = normalize(embeddings)
    rows = text.astype(jnp.float32)
    product = jnp.einsum("...me,ce->...mc", unit, rows, precision=lax.Precision.HIGHEST)
    return temperature * product


def class_probabilities(
    embeddings: Float[Array, "... M E"],
    text: Float[Array, "C E"],
    *,
    temperature: float,
    valid: Bool[Array, " C"] | None = None,
) -> Float[Array, "... M C"]:
    """Computes each mask's softmax over the classes.

    Args:
        embeddings, temperature: as for `class_logits`.
        text: rows of real classes; the non-object row has no part in it.
        valid: classes that exist; the others get 0. None means all.
    """
    logits = class_logits(embeddings, text, temperature=temperature)
    if valid is not None:
        logits = jnp.where(valid, logits, -jnp.inf)
    return jax.nn.softmax(logits, axis=-1)


def ensemble(
    clip: Float[Array, "*B M C"],
    generator: Float[Array, "*B M C"] | None,
    *,
    weight: float | None,
    seen: Bool[Array, " C"] | None = None,
    covers: Bool[Array, "*B M"] | None = None,
) -> Float[Array, "*B M C"]:
    """Joins CLIP's class probabilities of masks with those of the generator that drew them.

    g^w·k^(1−w) for seen classes and g^(1−w)·k^w for unseen ones, not scaled to a sum of 1, where k
    is CLIP's probability and g the generator's: w is the trust in the generator for what it was
    trained on.

    Args:
        clip: k, over the real classes.
        generator: g, its softmax over classes and non-object with that column dropped; may be None
            with a weight of 0.
        weight: w, static. 0 returns k as it is, and None g as it is.
        seen: classes the generator was trained on; None means none.
        covers: masks with a pixel above ½. CLIP has no say over the others: their k counts as 1.
            None means all.

    Returns:
        Float32 scores.

    Source: maft.md §4. The published MAFT feeds raw class embeddings in place of g, a slip; this
    is its formula with g as its baseline computes it.
    """
    if weight == 0:
        return clip
    if generator is None:
        raise ValueError("a weight other than 0 needs the generator's scores")
    if weight is None:
        return generator
    if covers is not None:
        clip = jnp.where(covers[..., None], clip, 1.0)
    share = jnp.asarray(1 - weight)
    if seen is not None:
        share = jnp.where(seen, weight, 1 - weight)
    return generator**share * clip ** (1 - share)

"""From the recurrence's last maps to masks: dense CRF or PAMR, one label a pixel.

Source: car.md §7.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.methods import car_refine
from openseg_jax.methods.car_config import CaRConfig
from openseg_jax.ops import crf
from openseg_jax.types import Array, Bool, Float, UInt8

__all__ = ["finish", "masks_of_maps", "truncate"]


def masks_of_maps(
    image: UInt8[Array, "H W 3"],
    maps: Float[Array, "K H W"],
    alive: Bool[Array, " K"],
    config: CaRConfig,
    *,
    valid: Bool[Array, "H W"] | None = None,
    backend: str | None = None,
) -> Bool[Array, "K H W"]:
    """Turns full-size maps into masks: a pixel joins the text that wins it.

    The background's map is (1 − max of maps)^bg_factor. The dense CRF takes it and the maps as
    probabilities; PAMR spreads each of them by itself. With `pixels="joint"` texts and background
    then compete for each pixel, and masks are disjoint; with "separate" each text competes with a
    background of its own.

    Args:
        image: RGB bytes.
        maps: in [0, 1]. alive: texts that count.
        config: `refine`, `pixels`, `bg_factor`, and the CRF's and PAMR's own.
        valid: pixels that exist. backend: of the CRF, see `ops.crf.dense_crf`.

    Returns:
        Bool[K H W]; dead texts have no pixel.
    """
    weights = car_refine.affinity(image, valid) if config.refine == "pamr" else None
    if config.pixels == "joint":
        return _joint(image, maps, alive, config, valid, backend, weights)
    if isinstance(maps, np.ndarray):
        rows = [
            _joint(image, maps[i : i + 1], alive[i : i + 1], config, valid, backend, weights)[0]
            if alive[i]
            else np.zeros(maps.shape[1:], bool)
            for i in range(len(maps))
        ]
        return np.stack(rows)

    def one(pair: tuple[Any, Any]) -> Any:
        return _joint(image, pair[0][None], pair[1][None], config, valid, backend, weights)[0]

    return jax.lax.map(one, (maps, alive))


def _joint(
    image: Any, maps: Any, alive: Any, config: CaRConfig, valid: Any, backend: str | None,
    weights: Any,
) -> Any:  # fmt: skip
    probs = crf.cam_probabilities(maps, bg_factor=config.bg_factor, alive=alive)
    if config.refine == "pamr":
        probs = car_refine.spread(weights, probs, valid, config.pamr_iterations)
    elif config.refine == "crf":
        capacity = None
        if config.crf_capacity:
            capacity = math.ceil(config.crf_capacity * image.shape[0] * image.shape[1])
        probs = crf.dense_crf(
            image, probs, alive, valid=valid, iterations=config.crf_iterations,
            config=crf.CRFConfig(wrap_u8=config.crf_wrap_u8), backend=backend, capacity=capacity,
        )  # fmt: skip
    xp: Any = jnp if isinstance(probs, jax.Array) else np
    living = xp.concatenate([xp.ones(1, bool), xp.asarray(alive)])
    probs = xp.where(living[:, None, None], probs, -1.0)
    masks = crf.label_masks(crf.label_map(probs), maps.shape[0])
    return masks if valid is None else masks & valid


def truncate(
    masks: Bool[Array, "K H W"],
    scores: Float[Array, " K"],
    alive: Bool[Array, " K"],
    *,
    separate: bool,
) -> tuple[Bool[Array, "K H W"], Float[Array, " K"]]:
    """Repeats what the reference loses by sizing one-hot codes by the largest label that occurs.

    Jointly, texts behind the last one that won a pixel get a score of 0. One by one, empty masks
    vanish and the later ones move up onto earlier alive texts; scores do not move, and what is left
    over at the end gets no mask and 0.

    Args:
        masks: without a pixel for dead texts. scores: 0 for dead texts.
        alive: texts that count.
        separate: the CRF ran for each text alone.

    Returns:
        NumPy arrays for NumPy arrays; under `jax.jit` the same in fixed shapes.
    """
    xp: Any = jnp if isinstance(masks, jax.Array) else np
    filled = masks.any(axis=(1, 2))
    if not separate:
        last = xp.where(filled, xp.arange(len(filled)), -1).max(initial=-1)
        return masks, xp.where(xp.arange(len(filled)) <= last, scores, 0)
    # The n-th alive text gets the n-th mask that has a pixel.
    place, rank = xp.cumsum(alive) - 1, xp.cumsum(filled) - 1
    source = (filled & (rank == place[:, None])).argmax(axis=1)
    there = alive & (place < filled.sum())
    return masks[source] & there[:, None, None], xp.where(there, scores, 0)


def finish(
    image: UInt8[Array, "H W 3"],
    maps: Float[Array, "K H W"],
    scores: Float[Array, " K"],
    alive: Bool[Array, " K"],
    config: CaRConfig,
    *,
    valid: Bool[Array, "H W"] | None = None,
    backend: str | None = None,
) -> tuple[Bool[Array, "K H W"], Float[Array, " K"]]:
    """Turns full-size maps and scores into what a text gets: `masks_of_maps`, then parity's loss.

    Args:
        image, maps, alive, config, valid, backend: see `masks_of_maps`.
        scores: of the recurrence, 0 for dead texts.
    """
    masks = masks_of_maps(image, maps, alive, config, valid=valid, backend=backend)
    if not config.crf_truncation or config.refine != "crf":
        return masks, scores
    return truncate(masks, scores, alive, separate=config.pixels == "separate")

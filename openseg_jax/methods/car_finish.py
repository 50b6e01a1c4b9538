"""From the recurrence's last maps to masks: dense CRF, one label a pixel, referring merges.

Source: car.md §7.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.methods.car_config import CaRConfig
from openseg_jax.ops import crf
from openseg_jax.types import Array, Bool, Float, UInt8

__all__ = ["masks_of_maps", "truncate"]


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

    With `crf="joint"` (or "none") texts and background compete for each pixel, and masks are
    disjoint; with "separate" each text competes with the background alone.

    Args:
        image: RGB bytes.
        maps: in [0, 1]. alive: texts that count.
        config: `crf`, `crf_iterations`, `bg_factor`, `crf_wrap_u8`.
        valid: pixels that exist. backend: of the CRF, see `ops.crf.dense_crf`.

    Returns:
        Bool[K H W]; dead texts have no pixel.
    """
    if config.crf != "separate":
        return _joint(image, maps, alive, config, valid, backend)
    if isinstance(maps, np.ndarray):
        rows = [
            _joint(image, maps[i : i + 1], alive[i : i + 1], config, valid, backend)[0]
            if alive[i]
            else np.zeros(maps.shape[1:], bool)
            for i in range(len(maps))
        ]
        return np.stack(rows)

    def one(pair: tuple[Any, Any]) -> Any:
        return _joint(image, pair[0][None], pair[1][None], config, valid, backend)[0]

    return jax.lax.map(one, (maps, alive))


def _joint(
    image: Any, maps: Any, alive: Any, config: CaRConfig, valid: Any, backend: str | None
) -> Any:
    probs = crf.cam_probabilities(maps, bg_factor=config.bg_factor, alive=alive)
    if config.crf != "none":
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
    masks: Bool[np.ndarray, "K H W"],
    scores: Float[np.ndarray, " K"],
    *,
    separate: bool,
) -> tuple[Bool[np.ndarray, "K H W"], Float[np.ndarray, " K"]]:
    """Repeats what the reference loses by sizing one-hot codes by the largest label that occurs.

    Jointly, texts behind the last one that won a pixel get no mask and a score of 0. One by one,
    empty masks vanish and the later ones move up onto earlier texts; scores do not move, and what
    is left over at the end gets 0.

    Args:
        masks: of the alive texts, in order. scores: theirs.
        separate: the CRF ran for each text alone.
    """
    filled = masks.any(axis=(1, 2))
    if separate:
        chosen = masks[filled]
    else:
        chosen = masks[: int(np.flatnonzero(filled)[-1]) + 1 if filled.any() else 0]
    out, left = np.zeros_like(masks), np.zeros_like(scores)
    out[: len(chosen)] = chosen
    left[: len(chosen)] = scores[: len(chosen)]
    return out, left

"""Referring expressions: all sentences about one object, merged into one mask.

Source: car.md §3.2, §7.4, §8. As published, the sentences of one object are segmented together:
each has its map against the backgrounds alone, they compete in the classifier, and the masks of
those that survive are averaged by score.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from openseg_jax.methods.car import CaR, CarResult
from openseg_jax.methods.car_config import CaRConfig
from openseg_jax.methods.car_texts import CarText
from openseg_jax.ops.masks import merge_sentences
from openseg_jax.types import Bool, UInt8

__all__ = ["clean_sentence", "refer", "referring"]


def referring(config: CaRConfig) -> CaRConfig:
    """Returns the settings of referring mode: no competition in the maps or for pixels, and
    one plain softmax over the sentences in place of the template ensemble."""
    return dataclasses.replace(config, competition="alone", pixels="separate", templates=())


def clean_sentence(sentence: str) -> str:
    """Lower-cases a sentence and removes quotation marks and slashes, as the data sets' loader."""
    return sentence.lower().replace('"', "").replace("/", "").strip()


def refer(
    car: CaR,
    image: UInt8[np.ndarray, "H W 3"],
    sentences: Sequence[str] | CarText,
    *,
    size: tuple[int, int] | None = None,
) -> tuple[Bool[np.ndarray, "H W"], CarResult]:
    """Finds the object that sentences describe.

    Args:
        car: built with settings of `referring`.
        image: RGB bytes.
        sentences: one or more about the same object; equal ones count once.
        size: (H, W) of the mask, None for the image's own.

    Returns:
        The merged mask, and the result with one mask a sentence.
    """
    if not isinstance(sentences, CarText):
        sentences = car.classes(list(dict.fromkeys(clean_sentence(s) for s in sentences)))
    result = car.predict(image, sentences)
    size = size or (image.shape[0], image.shape[1])
    merged = merge_sentences(result.masks.astype(np.float32), result.scores, size)
    return np.asarray(merged), result

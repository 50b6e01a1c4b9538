"""The texts of CaR as embeddings: made once a vocabulary, on the host, and cached."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from openseg_jax.errors import UserError, expected
from openseg_jax.methods.car_config import CaRConfig
from openseg_jax.methods.vocabulary import checked_names, unit_rows
from openseg_jax.text.classifier import TextEncoder, encode_texts
from openseg_jax.text.prompts import fill
from openseg_jax.types import Array, Bool, Float

__all__ = ["CarText", "bucketed", "build", "from_embeddings", "pad"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CarText:
    """All embeddings that CaR compares with, unit length, for K texts and their backgrounds.

    Attributes:
        raw: Float[K E], CAM embeddings of the first step under `raw_names_first_step`.
        cam: of all other steps.
        background: Float[G E], CAM embeddings that compete and are never kept. G may be 0, and
            rows of zeros are padding.
        first: Float[S K E2], classifier embeddings of the first step, one row a template.
        later: Float[S2 K E2] of later steps, or None for the same.
        valid: Bool[K], False for padding.
        names: the K texts without padding.
        templated: classifier scores join several templates; False is one plain softmax.
    """

    raw: Float[Array, "K E"]
    cam: Float[Array, "K E"]
    background: Float[Array, "G E"]
    first: Float[Array, "S K E2"]
    later: Float[Array, "S2 K E2"] | None
    valid: Bool[Array, " K"]
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True}, default=())
    templated: bool = dataclasses.field(metadata={"static": True}, default=True)

    @property
    def count(self) -> int:
        """K with padding."""
        return self.valid.shape[0]


def from_embeddings(
    cam: Float[np.ndarray, "K E"],
    classifier: Float[np.ndarray, "S K E2"],
    *,
    raw: Float[np.ndarray, "K E"] | None = None,
    background: Float[np.ndarray, "G E"] | None = None,
    later: Float[np.ndarray, "S2 K E2"] | None = None,
    names: Sequence[str] = (),
    templated: bool = True,
) -> CarText:
    """Builds the texts from embeddings that exist already; they are scaled to unit length.

    Args:
        cam: of the CAM model. classifier: of the classifier, one row a template.
        raw: CAM embeddings of the first step; None means `cam`.
        background: CAM embeddings of background texts; None means none.
        later: classifier embeddings of later steps; None means `classifier`.
        names, templated: see `CarText`.
    """
    if cam.ndim != 2 or classifier.ndim != 3 or classifier.shape[1] != cam.shape[0]:
        raise expected(
            "classifier", f"Float[S {cam.shape[0]} E]", f"{classifier.shape}",
            "give one row of embeddings for each template",
        )  # fmt: skip
    none = np.zeros((0, cam.shape[-1]), np.float32)
    return CarText(
        raw=unit_rows(cam if raw is None else raw),
        cam=unit_rows(cam),
        background=unit_rows(none if background is None else background),
        first=unit_rows(classifier),
        later=None if later is None else unit_rows(later),
        valid=np.ones(cam.shape[0], bool),
        names=tuple(names) or tuple(str(i) for i in range(cam.shape[0])),
        templated=templated,
    )


def build(
    config: CaRConfig,
    cam: TextEncoder,
    classifier: TextEncoder,
    names: Sequence[str],
    background: Sequence[str] | None = None,
) -> CarText:
    """Encodes names with the templates of a configuration.

    Args:
        config: templates, and the backgrounds that `background=None` stands for.
        cam, classifier: loaded weights.
        names: K texts. background: texts that compete in the CAM and are never kept.

    Raises:
        UserError: for no names, an empty one, duplicates, or (under `char_bug`) a sentence with
            fewer characters than there are sentences.
    """
    names = checked_names(names)
    background = config.background if background is None else tuple(background)
    if not config.shared_background:
        # A text that competes with itself halves its own probability and gains nothing.
        background = tuple(dict.fromkeys(b for b in background if b not in names))
    count, extra = len(names), len(background)
    filled = [fill(config.cam_template, name) for name in (*names, *background)]
    raw = list(names) if config.raw_names_first_step else []
    vectors = encode_texts(cam, [*filled, *raw])
    templated = bool(config.templates)
    templates = config.templates or (config.cam_template,)
    sentences = [fill(template, name) for template in templates for name in names]
    first = encode_texts(classifier, sentences).reshape(len(templates), count, -1)
    later = None
    if config.char_bug and not templated:
        later = _characters(classifier, filled[:count])
    return from_embeddings(
        vectors[:count],
        first,
        raw=vectors[count + extra :] if raw else None,
        background=vectors[count : count + extra],
        later=later,
        names=names,
        templated=templated,
    )


def _characters(classifier: TextEncoder, sentences: list[str]) -> Float[np.ndarray, "K K E2"]:
    """Encodes what the reference's filter leaves of sentences: character i of sentence q.

    It filters a list of strings as if it were a list of lists, so from the second step on
    "template" q holds the single characters of sentence q at the places of the kept texts.
    """
    count = len(sentences)
    short = [s for s in sentences if len(s) < count]
    if short:
        raise UserError(
            f"char_bug: {short[0]!r} has fewer characters than there are sentences ({count}), "
            "where the reference fails too; give fewer sentences or set char_bug=False"
        )
    letters = [sentence[i] for sentence in sentences for i in range(count)]
    return encode_texts(classifier, letters).reshape(count, count, -1)


def pad(text: CarText, count: int, rivals: int = 0) -> CarText:
    """Pads to `count` texts that are never alive and `rivals` backgrounds that never compete.

    Vocabularies of one padded size share what was compiled.
    """
    extra = count - text.count
    if extra < 0:
        raise expected("count", f"at least {text.count}", str(count), "choose a larger bucket")

    def grow(x: np.ndarray, axis: int, extra: int = extra) -> np.ndarray:
        return np.pad(x, [(0, extra if i == axis else 0) for i in range(x.ndim)])

    return dataclasses.replace(
        text,
        raw=grow(text.raw, 0),
        cam=grow(text.cam, 0),
        background=grow(text.background, 0, max(rivals - text.background.shape[0], 0)),
        first=grow(text.first, 1),
        later=None if text.later is None else grow(text.later, 1),
        valid=grow(text.valid, 0),
    )


def bucketed(text: CarText) -> CarText:
    """Pads texts to 8, 16, 32 … and backgrounds to a multiple of 8; names are left out."""
    count = max(8, 1 << (text.count - 1).bit_length())
    rivals = max(8, -(-text.background.shape[0] // 8) * 8)
    return dataclasses.replace(pad(text, count, rivals), names=())

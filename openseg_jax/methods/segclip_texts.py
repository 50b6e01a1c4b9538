"""SegCLIP's class embeddings: made once a vocabulary, on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from openseg_jax.methods.segclip_config import SegClipConfig
from openseg_jax.methods.vocabulary import checked_names, rivals_of, unit_rows
from openseg_jax.text.classifier import TextEncoder, encode_texts
from openseg_jax.text.prompts import fill
from openseg_jax.types import Array, Bool, Float

__all__ = ["SegClipText", "build", "from_embeddings", "mean_of_prompts"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SegClipText:
    """A vocabulary as embeddings.

    Attributes:
        rows: Float[G E], unit length: the classes, then the backgrounds, then zeros as padding, so
            that vocabularies of like size share what was compiled.
        valid: Bool[G], False for padding.
        count: C, the classes without backgrounds. rivals: how many backgrounds.
        names: the C classes.
    """

    rows: Float[Array, "G E"]
    valid: Bool[Array, " G"]
    count: int = dataclasses.field(metadata={"static": True})
    rivals: int = dataclasses.field(metadata={"static": True}, default=0)
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True}, default=())

    def anonymous(self) -> SegClipText:
        """Leaves out what is no array, so that vocabularies of one padded size share programs."""
        return dataclasses.replace(self, count=self.valid.shape[0], rivals=0, names=())


def mean_of_prompts(vectors: Float[np.ndarray, "C S E"]) -> Float[np.ndarray, "C E"]:
    """Averages the embeddings of S prompts as they are, and scales the mean to unit length."""
    return unit_rows(np.asarray(vectors, np.float32).mean(axis=1))


def from_embeddings(
    rows: Float[np.ndarray, "N E"], *, rivals: int = 0, names: Sequence[str] = ()
) -> SegClipText:
    """Builds a vocabulary from unit-length embeddings; the last `rivals` rows are backgrounds."""
    total = len(rows)
    size = max(8, 1 << (total - 1).bit_length())
    padded = np.zeros((size, rows.shape[1]), np.float32)
    padded[:total] = rows
    names = tuple(names) or tuple(str(i) for i in range(total - rivals))
    return SegClipText(padded, np.arange(size) < total, total - rivals, rivals, names)


def build(
    config: SegClipConfig,
    loaded: TextEncoder,
    names: Sequence[str],
    background: Sequence[str] | None = None,
) -> SegClipText:
    """Encodes names with the templates of a configuration.

    Args:
        config: templates, and the texts that `background=None` stands for.
        loaded: weights whose text tower is SegCLIP's.
        names: C classes, each once.
        background: texts that compete and are not reported; () is none.

    Raises:
        UserError: for no names, an empty one or duplicates.
    """
    names = checked_names(names)
    rivals = rivals_of(names, background, config.background)
    every = (*names, *rivals)
    sentences = [fill(template, name.strip()) for name in every for template in config.templates]
    vectors = encode_texts(loaded, sentences, unit=False)
    rows = mean_of_prompts(vectors.reshape(len(every), len(config.templates), -1))
    return from_embeddings(rows, rivals=len(rivals), names=names)

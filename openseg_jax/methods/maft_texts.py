"""The class embeddings of MAFT: made once a vocabulary, on the host, and cached."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.methods.maft_config import MaftConfig
from openseg_jax.methods.vocabulary import checked_names, rivals_of, unit_rows
from openseg_jax.models.clip import normalize
from openseg_jax.text.classifier import TextEncoder, text_classifier
from openseg_jax.types import Array, Bool, Float

__all__ = ["MaftText", "build", "from_embeddings", "with_non_object"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MaftText:
    """A vocabulary as embeddings.

    Attributes:
        rows: Float[G E], unit length: the classes, then the backgrounds, then zeros as padding,
            which lets vocabularies of like size share what was compiled.
        valid: Bool[G], False for padding.
        seen: Bool[G], classes that the generator was trained on.
        count: C, the classes without backgrounds. rivals: how many backgrounds.
        names: the C classes.
    """

    rows: Float[Array, "G E"]
    valid: Bool[Array, " G"]
    seen: Bool[Array, " G"]
    count: int = dataclasses.field(metadata={"static": True})
    rivals: int = dataclasses.field(metadata={"static": True}, default=0)
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True}, default=())

    def anonymous(self) -> MaftText:
        """Leaves out what is no array, so that vocabularies of one padded size share programs."""
        return dataclasses.replace(self, count=self.valid.shape[0], rivals=0, names=())


def with_non_object(
    rows: Float[Array, "C E"], non_object: Float[Array, "1 E"] | None
) -> Float[Array, "G E"]:
    """Appends the learnt row for "no object", scaled to unit length, where there is one."""
    if non_object is None:
        return rows
    return jnp.concatenate([rows, normalize(non_object.reshape(1, -1))])


def from_embeddings(
    classes: Float[np.ndarray, "C E"],
    *,
    background: Float[np.ndarray, "R E"] | None = None,
    seen: Bool[np.ndarray, " C"] | None = None,
    names: Sequence[str] = (),
) -> MaftText:
    """Builds a vocabulary from embeddings that exist already; they are scaled to unit length.

    Args:
        classes: one row a class. background: rows that compete and are not reported.
        seen: classes the generator was trained on; None means none.
        names: of the classes.
    """
    count, extra = len(classes), 0 if background is None else len(background)
    size = max(8, 1 << (count + extra - 1).bit_length())
    rows = np.zeros((size, classes.shape[1]), np.float32)
    rows[:count] = unit_rows(classes)
    if background is not None and extra:
        rows[count : count + extra] = unit_rows(background)
    known = np.zeros(size, bool)
    if seen is not None:
        known[:count] = seen
    names = tuple(names) or tuple(str(i) for i in range(count))
    return MaftText(rows, np.arange(size) < count + extra, known, count, extra, names)


def build(
    config: MaftConfig,
    clip: TextEncoder,
    names: Sequence[str],
    background: Sequence[str] | None = None,
) -> MaftText:
    """Encodes names with the templates of a configuration.

    Args:
        config: templates, seen names, and the backgrounds that `background=None` stands for.
        clip: loaded weights.
        names: C classes, inserted into the templates as they are.
        background: texts that compete; () is none.

    Raises:
        UserError: for no names, an empty one or duplicates.
    """
    names = checked_names(names)
    rivals = rivals_of(names, background, config.background)
    rows = text_classifier(clip, [*names, *rivals], config.templates)
    return from_embeddings(
        rows[: len(names)],
        background=rows[len(names) :],
        seen=np.isin(np.asarray(names, object), np.asarray(config.seen, object)),
        names=names,
    )

"""Dense CLIP's class embeddings: made once a vocabulary, on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from openseg_jax.methods.clip_dense_config import ClipDenseConfig
from openseg_jax.methods.vocabulary import checked_names, rivals_of, synonyms_of
from openseg_jax.text.classifier import TextEncoder, text_classifier
from openseg_jax.types import Array, Bool, Float, Int

__all__ = ["DenseText", "build", "from_embeddings"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DenseText:
    """A vocabulary as embeddings, padded so that vocabularies of like size share programs.

    Attributes:
        rows: Float[G E], unit length: every synonym of every class, first synonyms first, then the
            backgrounds, then zeros as padding.
        kind: Int[G]: 1 for rows of classes, 2 for backgrounds, 0 for padding.
        members: Int[K S], rows that stand for class k (one with fewer synonyms repeats its first).
            K is C, padded. With S = 1, row k is class k.
        real: Bool[K], False for padding.
        count: C, the classes without backgrounds.
        names: the C classes.
    """

    rows: Float[Array, "G E"]
    kind: Int[Array, " G"]
    members: Int[Array, "K S"]
    real: Bool[Array, " K"]
    count: int = dataclasses.field(metadata={"static": True})
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True}, default=())

    def anonymous(self) -> DenseText:
        """Leaves out what is no array, so that vocabularies of one padded size share programs."""
        return dataclasses.replace(self, count=self.real.shape[0], names=())


def _padded(count: int) -> int:
    return -(-count // 8) * 8


def from_embeddings(
    rows: Float[np.ndarray, "R E"],
    *,
    rivals: int = 0,
    owners: Sequence[int] | None = None,
    names: Sequence[str] = (),
) -> DenseText:
    """Builds a vocabulary from unit-length embeddings.

    Args:
        rows: of the classes' texts; the last `rivals` rows are backgrounds.
        owners: class of each text of a class, ascending; None means that each is its own class.
        names: of the classes.
    """
    texts = len(rows) - rivals
    owner = np.arange(texts) if owners is None else np.asarray(owners)
    count = int(owner.max()) + 1
    each = [np.flatnonzero(owner == c) for c in range(count)]
    firsts = np.asarray([e[0] for e in each])
    order = np.concatenate([firsts, np.setdiff1d(np.arange(texts), firsts)])
    place = np.argsort(order)
    most = max(len(e) for e in each)
    members = np.zeros((_padded(count), most), np.int32)
    for c, own in enumerate(each):
        members[c] = place[own[np.minimum(np.arange(most), len(own) - 1)]]
    size = max(_padded(len(rows)), len(members))
    padded = np.zeros((size, rows.shape[1]), np.float32)
    padded[: len(rows)] = np.concatenate([rows[:texts][order], rows[texts:]])
    kind = np.zeros(size, np.int32)
    kind[:texts], kind[texts : len(rows)] = 1, 2
    if most == 1:
        members = np.arange(len(members), dtype=np.int32)[:, None]
    named = tuple(names) or tuple(str(c) for c in range(count))
    return DenseText(padded, kind, members, np.arange(len(members)) < count, count, named)


def build(
    config: ClipDenseConfig,
    loaded: TextEncoder,
    names: Sequence[str],
    background: Sequence[str] | None = None,
) -> DenseText:
    """Encodes names with the templates of a configuration.

    Args:
        config: templates, and the texts that `background=None` stands for.
        loaded: weights with their tokenizer.
        names: C classes, each once; one may hold synonyms ("person, man, woman"): each is a text of
            its own and the class is as probable as the best of them.
        background: texts that compete and are not reported; () is none.

    Raises:
        UserError: for no names, an empty one or duplicates.
    """
    names = checked_names(names)
    parts = [synonyms_of(name) for name in names]
    known = () if config.keep_shared else tuple(text for own in parts for text in own)
    rivals = rivals_of(known, background, config.background)
    owners = [c for c, own in enumerate(parts) for _ in own]
    texts = (*(text for own in parts for text in own), *rivals)
    rows = text_classifier(loaded, texts, config.templates)
    return from_embeddings(rows, rivals=len(rivals), owners=owners, names=names)

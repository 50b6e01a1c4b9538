"""Text embeddings in bulk, and zero-shot classifiers from names and prompt templates."""

from __future__ import annotations

import collections
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.errors import UserError
from openseg_jax.models.clip import normalize
from openseg_jax.models.text import TextTransformer
from openseg_jax.models.variants import CLIPConfig, TextConfig
from openseg_jax.text.prompts import fill
from openseg_jax.text.tokenizer import Tokenizer
from openseg_jax.types import Array, Float, Int, Params

Progress = Callable[[int, int], None]

# Rows are cut to the shortest of these that holds their end of text, where what follows cannot
# matter; a prompt has about ten tokens of the 77.
_LENGTHS = (16, 32)
_FEW = 8
_NAMES_AT_ONCE = 256
_CACHE_BYTES = 256 * 2**20


class TextTower(Protocol):
    """What encoding needs of weights: those of a training, or loaded ones."""

    @property
    def config(self) -> CLIPConfig: ...
    @property
    def params(self) -> Params: ...
    @property
    def tokenizer(self) -> Tokenizer: ...


class TextEncoder(TextTower, Protocol):
    """What keeping results needs besides; `weights.LoadedClip` has it."""

    fingerprint: Any  # a string, computed when first asked for


@functools.lru_cache(maxsize=16)
def _encoder(
    config: TextConfig, embed_dim: int, dtype: Any, unit: bool = True
) -> Callable[..., Array]:
    # A named edge: jitted once for each tower, and for each shape of chunk.
    tower = TextTransformer(config, embed_dim, dtype)

    def encode(params: Params, ids: Int[Array, "B T"]) -> Float[Array, "B E"]:
        out: Any = tower.apply({"params": params}, ids)
        return normalize(out) if unit else out.astype(jnp.float32)

    return jax.jit(encode)


def _row_lengths(ids: np.ndarray, config: TextConfig) -> np.ndarray:
    """Chooses for each row the length it is encoded at."""
    full = np.full(len(ids), config.context)
    if not (config.causal and config.pool == "argmax"):
        return full
    need = ids.argmax(axis=1) + 1
    for length in sorted((n for n in _LENGTHS if n < config.context), reverse=True):
        full = np.where(need <= length, length, full)
    return full


def encode_texts(
    loaded: TextTower,
    sentences: Sequence[str],
    *,
    chunk: int = 64,
    dtype: Any = jnp.float32,
    unit: bool = True,
    progress: Progress | None = None,
) -> Float[np.ndarray, "C E"]:
    """Encodes sentences to unit-length embeddings.

    Equal sentences are encoded once. Chunks have fixed shapes, so that jit compiles a handful of
    them whatever the number of sentences, and memory does not grow with it.

    Args:
        loaded: weights with their tokenizer.
        sentences: any number; longer ones than the context are truncated.
        chunk: sentences at a time.
        dtype: of the computation.
        unit: False keeps the lengths that the tower gives.
        progress: called with (sentences done, sentences in all).

    Returns:
        float32, one row for each sentence, in order.
    """
    config = loaded.config
    unique = {text: i for i, text in enumerate(dict.fromkeys(sentences))}
    ids = loaded.tokenizer.encode(list(unique))
    lengths = _row_lengths(ids, config.text)
    encode = _encoder(config.text, config.embed_dim, dtype, unit)
    params = jax.tree.map(jnp.asarray, loaded.params["text"])
    out, done = np.empty((len(unique), config.embed_dim), np.float32), 0
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        size = chunk if len(rows) > _FEW else min(_FEW, chunk)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            # A last chunk that is too small repeats its first row; the copies are dropped.
            padded = np.concatenate([part, np.full(size - len(part), part[0])])
            vectors = encode(params, ids[padded, :length])
            out[part] = np.asarray(vectors)[: len(part)]
            done += len(part)
            if progress is not None:
                progress(done, len(unique))
    return out[[unique[text] for text in sentences]].reshape(-1, config.embed_dim)


class _Cache:
    """Keeps the most recently used classifiers, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self.limit, self.items, self.lock = limit, collections.OrderedDict(), threading.Lock()

    def get(self, key: Any) -> np.ndarray | None:
        with self.lock:
            if key in self.items:
                self.items.move_to_end(key)
            return self.items.get(key)

    def put(self, key: Any, value: np.ndarray) -> None:
        with self.lock:
            self.items[key] = value
            while len(self.items) > 1 and sum(x.nbytes for x in self.items.values()) > self.limit:
                self.items.popitem(last=False)


_CACHE = _Cache(_CACHE_BYTES)


def text_classifier(
    loaded: TextEncoder,
    names: Sequence[str],
    templates: Sequence[str],
    *,
    synonyms: bool = False,
    chunk: int = 64,
    dtype: Any = jnp.float32,
    progress: Progress | None = None,
) -> Float[np.ndarray, "C E"]:
    """Builds a zero-shot classifier as `encode_names` does, and keeps it.

    Results are kept in memory by (weights, names, templates); the array returned is read-only.

    Args:
        loaded: weights with their tokenizer.
        names: class names.
        templates: sentences with one "{}", see `text.prompts`.
        synonyms: a name like "person, child" stands for the mean of its comma-separated parts.
            False keeps commas as text.
        chunk: sentences at a time.
        dtype: of the computation.
        progress: called with (prompts done, prompts in all).

    Raises:
        UserError: for no names, an empty name, or no templates.
    """
    key = (loaded.fingerprint, tuple(names), tuple(templates), synonyms, jnp.dtype(dtype).name)
    found = _CACHE.get(key)
    if found is not None:
        return found
    out = encode_names(
        loaded, names, templates, synonyms=synonyms, chunk=chunk, dtype=dtype, progress=progress
    )
    out.setflags(write=False)
    _CACHE.put(key, out)
    return out


def encode_names(
    loaded: TextTower,
    names: Sequence[str],
    templates: Sequence[str],
    *,
    synonyms: bool = False,
    chunk: int = 64,
    dtype: Any = jnp.float32,
    progress: Progress | None = None,
) -> Float[np.ndarray, "C E"]:
    """Encodes class names: one unit-length embedding each.

    Each prompt's embedding is scaled to unit length, they are averaged over the templates (and
    synonyms), and the mean is scaled to unit length again, as in OpenAI's notebook.

    Arguments and errors as in `text_classifier`.
    """
    names, templates = tuple(names), tuple(templates)
    if not names or not templates:
        raise UserError(
            f"{'names' if not names else 'templates'}: expected at least one, got none; "
            "list some, e.g. names ['zebra', 'grass'] and templates ['a photo of a {}.']"
        )
    parts = [_parts(name, synonyms) for name in names]
    total, done = sum(len(p) for p in parts) * len(templates), 0
    out = np.empty((len(names), loaded.config.embed_dim), np.float32)
    for start in range(0, len(names), _NAMES_AT_ONCE):
        block = parts[start : start + _NAMES_AT_ONCE]
        sentences = [fill(t, part) for group in block for part in group for t in templates]
        vectors = encode_texts(loaded, sentences, chunk=chunk, dtype=dtype)
        ends = np.cumsum([len(group) * len(templates) for group in block])
        for i, rows in enumerate(np.split(vectors, ends[:-1])):
            mean = rows.mean(axis=0)
            out[start + i] = mean / max(np.linalg.norm(mean), 1e-12)
        done += len(sentences)
        if progress is not None:
            progress(done, total)
    return out


def _parts(name: str, synonyms: bool) -> list[str]:
    parts = [p.strip() for p in name.split(",")] if synonyms else [name.strip()]
    parts = [p for p in parts if p]
    if not parts:
        raise UserError(f"names: expected words, got {name!r}; remove the empty name")
    return parts

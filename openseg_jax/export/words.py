"""From class names to the embeddings that an exported model takes.

Part of the run.py of exported folders: it uses nothing of this package but its neighbours here.
"""

from __future__ import annotations

import csv
import dataclasses
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["BUILD", "ExportError", "Vocabulary", "parse_labels", "tokens_of", "unit_rows"]

Encode = Callable[[str, Sequence[str]], np.ndarray]


class ExportError(ValueError):
    """A mistake in what was given, or a folder that cannot be used; says how to mend it."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Class names as the embeddings that `segment` takes.

    Attributes:
        names: the classes.
        arrays: inputs of the program by name, padded; the manifest lists them.
    """

    names: tuple[str, ...]
    arrays: dict[str, np.ndarray]


def parse_labels(text: str) -> list[str]:
    """Splits "zebra, grass" into labels; one that holds a comma is written in double quotes."""
    names: dict[str, str] = {}
    for line in text.splitlines():
        if line.count('"') % 2:
            raise ExportError(f"labels: a double quote is never closed in {line[:60]!r}")
        reader = csv.reader([line], skipinitialspace=True, escapechar="\\", doublequote=False)
        cells = next(reader, [])
        for name in (" ".join(cell.split()) for cell in cells):
            names.setdefault(name.casefold(), name)
    return [name for name in names.values() if name]


def tokens_of(about: dict[str, Any], folder: Path) -> Callable[[str], np.ndarray]:
    """Builds the tokenizer of a manifest's entry: from a sentence to Int32[context].

    Args:
        about: kind, file, context, start, end, pad and clean.
        folder: of the exported model.
    """
    file, context = folder / about["file"], about["context"]
    tokens: Any
    if about["kind"] == "sentencepiece":
        import sentencepiece

        tokens = sentencepiece.SentencePieceProcessor(model_proto=file.read_bytes()).encode
    else:
        import tokenizers

        pipeline = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        pipeline.no_truncation()
        pipeline.no_padding()
        tokens = lambda text: pipeline.encode(text, add_special_tokens=False).ids  # noqa: E731

    def row(text: str) -> np.ndarray:
        if about["clean"] == "lower":
            text = text.lower()
        elif about["clean"] == "canonicalize":
            drop = str.maketrans("", "", string.punctuation)
            text = " ".join(text.replace("_", " ").translate(drop).lower().split())
        head = [] if about["start"] is None else [about["start"]]
        tail = [] if about["end"] is None else [about["end"]]
        ids = [*head, *tokens(text), *tail]
        if len(ids) > context:
            ids = [*ids[: context - len(tail)], *tail]
        return np.asarray(ids + [about["pad"]] * (context - len(ids)), np.int32)

    return row


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Scales the last axis to unit length; zeros stay zeros."""
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def padded_count(count: int, rows: dict[str, Any]) -> int:
    """Chooses how many rows texts are padded to: few sizes, so that few programs are compiled."""
    size = rows["least"]
    while size < count:
        size *= 2
    most = rows["most"]
    if most is not None and count > most:
        raise ExportError(
            f"names: expected at most {most} texts at once, got {count}; ask for fewer at a time"
        )
    return size


def _grown(x: np.ndarray, count: int, axis: int = 0) -> np.ndarray:
    more = [(0, count - n if i == axis else 0) for i, n in enumerate(x.shape)]
    return np.pad(x, more)


def _rivals(
    recipe: dict[str, Any], given: Sequence[str] | None, taken: Sequence[str]
) -> tuple[str, ...]:
    own = recipe["background"] if given is None else given
    known = () if recipe["keep_shared"] else taken
    return tuple(dict.fromkeys(text for text in own if text not in known))


def _prompts(recipe: dict[str, Any], texts: Sequence[str]) -> list[str]:
    """Fills every template with every text, the templates of one text together."""
    return [t.replace("{}", text.strip()) for text in texts for t in recipe["templates"]]


def _means(recipe: dict[str, Any], encode: Encode, texts: Sequence[str]) -> np.ndarray:
    vectors = encode("text", _prompts(recipe, texts))
    mean = vectors.reshape(len(texts), len(recipe["templates"]), -1).mean(axis=1)
    return unit_rows(mean)


def _car(
    recipe: dict[str, Any], encode: Encode, names: Sequence[str], background: Sequence[str] | None
) -> dict[str, np.ndarray]:
    count, total = len(names), padded_count(len(names), recipe["rows"])
    if recipe["keep_shared"]:
        rivals = tuple(recipe["background"] if background is None else background)
    else:
        rivals = _rivals(recipe, background, names)
    template = recipe["cam_template"]
    filled = [template.replace("{}", text) for text in (*names, *rivals)]
    vectors = unit_rows(encode("cam", [*filled, *(names if recipe["raw_first"] else ())]))
    cam, rows = vectors[:count], vectors[count : count + len(rivals)]
    raw = vectors[count + len(rivals) :] if recipe["raw_first"] else cam
    templates = recipe["templates"] or [template]
    sentences = [t.replace("{}", name) for t in templates for name in names]
    first = unit_rows(encode("classifier", sentences)).reshape(len(templates), count, -1)
    return {
        "raw": _grown(raw, total), "cam": _grown(cam, total), "first": _grown(first, total, 1),
        "background": _grown(rows, max(8, -(-len(rows) // 8) * 8)),
        "valid": np.arange(total) < count,
    }  # fmt: skip


def _clip_dense(
    recipe: dict[str, Any], encode: Encode, names: Sequence[str], background: Sequence[str] | None
) -> dict[str, np.ndarray]:
    parts = [
        tuple(dict.fromkeys(p.strip() for p in name.split(",") if p.strip())) or (name.strip(),)
        for name in names
    ]
    most = recipe["synonyms"]
    if max(map(len, parts)) > most:
        raise ExportError(f"names: this export takes at most {most} synonyms a name; give fewer")
    texts = [text for own in parts for text in own]
    rivals = _rivals(recipe, background, texts)
    rows = _means(recipe, encode, (*texts, *rivals))
    starts = np.cumsum([0, *map(len, parts)])
    firsts = starts[:-1]
    # The first synonyms come first, as in the library.
    order = np.concatenate([firsts, np.setdiff1d(np.arange(len(texts)), firsts)])
    place, count = np.argsort(order), padded_count(len(names), recipe["rows"])
    members = np.zeros((count, most), np.int32)
    for c, own in enumerate(parts):
        members[c] = place[firsts[c] + np.where(np.arange(most) < len(own), np.arange(most), 0)]
    size = max(-(-len(rows) // 8) * 8, count)
    kind = np.repeat([1, 2, 0], [len(texts), len(rivals), size - len(rows)]).astype(np.int32)
    rows = np.concatenate([rows[: len(texts)][order], rows[len(texts) :]])
    return {
        "rows": _grown(rows, size), "kind": kind, "members": members,
        "real": np.arange(count) < len(names),
    }  # fmt: skip


def _plain(
    recipe: dict[str, Any], encode: Encode, names: Sequence[str], background: Sequence[str] | None
) -> dict[str, np.ndarray]:
    every = (*names, *_rivals(recipe, background, names))
    rows = _means(recipe, encode, every)
    size = padded_count(len(every), recipe["rows"])
    arrays = {"rows": _grown(rows, size), "valid": np.arange(size) < len(every)}
    if "seen" in recipe:
        arrays["seen"] = _grown(np.isin(list(names), list(recipe["seen"]) or [""]), size)
    return arrays


# By the manifest's vocabulary.kind: from names and background texts to inputs of the program.
BUILD: dict[str, Callable[..., dict[str, np.ndarray]]] = {
    "car": _car, "clip_dense": _clip_dense, "maft": _plain, "segclip": _plain,
}  # fmt: skip

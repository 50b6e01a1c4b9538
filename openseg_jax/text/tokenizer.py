"""Tokenizers: sentences to rows of token ids, as each family of weights was trained.

All kinds share one interface and one rule for rows: start (if the family has one), the tokens,
end, then padding up to the context. A sentence that is too long keeps its first tokens and still
ends in the end token; `long="error"` raises instead, as OpenAI's reference does.
"""

from __future__ import annotations

import abc
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import tokenizers

from openseg_jax.errors import UserError, unknown_name
from openseg_jax.text.clip_bpe import END, START, clip_tokenizer
from openseg_jax.text.prompts import canonicalize_text

HF_FILE, SENTENCEPIECE_FILE = "tokenizer.json", "tokenizer.model"

CLEAN = {
    "none": lambda text: text,
    "lower": str.lower,
    "canonicalize": canonicalize_text,
}


class Tokenizer(abc.ABC):
    """Turns sentences into int32 rows of one length.

    Attributes:
        kind: "hf" or "sentencepiece", as stored in our folders.
        context: length of a row.
        start: id before the tokens, or None. end: id after them, or None (LiT's BERT). pad: id
            that fills the row.
        clean: a key of `CLEAN`, applied before anything else.
    """

    kind = ""

    def __init__(
        self, *, context: int, start: int | None, end: int | None, pad: int, clean: str = "none"
    ) -> None:
        if clean not in CLEAN:
            unknown_name(clean, CLEAN, "tokenizer clean")
        self.context, self.start, self.end, self.pad = context, start, end, pad
        self.clean = clean

    @abc.abstractmethod
    def tokens(self, text: str) -> list[int]:
        """Returns the ids of a sentence without start, end and padding."""

    @abc.abstractmethod
    def text(self, ids: Sequence[int]) -> str:
        """Spells ids, those of start, end and padding not among them."""

    @abc.abstractmethod
    def unknown(self, text: str) -> list[str]:
        """Lists the words of `text` that the vocabulary cannot spell."""

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Writes the vocabulary file into `folder`."""

    def encode(self, texts: Sequence[str], *, long: str = "truncate") -> np.ndarray:
        """Encodes sentences.

        Args:
            texts: sentences.
            long: "truncate" or "error", for sentences beyond the context.

        Returns:
            int32 [n, context].

        Raises:
            UserError: for a text that is no string, or one too long under `long="error"`.
        """
        if isinstance(texts, str):
            raise UserError("texts: expected a list of strings, got one string; wrap it in a list")
        rows = np.full((len(texts), self.context), self.pad, np.int32)
        for row, text in zip(rows, texts, strict=True):
            if not isinstance(text, str):
                raise UserError(
                    f"texts: expected strings, got {type(text).__name__}; convert it first"
                )
            head = [] if self.start is None else [self.start]
            tail = [] if self.end is None else [self.end]
            ids = [*head, *self.tokens(CLEAN[self.clean](text)), *tail]
            if len(ids) > self.context:
                if long == "error":
                    raise UserError(
                        f"text: expected at most {self.context} tokens, got {len(ids)} for "
                        f"{text[:40]!r}…; shorten it or allow truncation"
                    )
                ids = [*ids[: self.context - len(tail)], *tail]
            row[: len(ids)] = ids
        return rows

    def decode(self, row: Sequence[int] | np.ndarray) -> str:
        """Says what a row of `encode` holds, for people: clean-up and truncation are not undone."""
        ids = [int(i) for i in row]
        end = self.pad if self.end is None else self.end
        ids = ids[: ids.index(end)] if end in ids else ids
        return self.text([i for i in ids if i != self.start])

    def to_dict(self) -> dict[str, Any]:
        """Returns what `load_tokenizer` needs beside the vocabulary file, ready for JSON."""
        return {
            "kind": self.kind,
            "context": self.context,
            "start": self.start,
            "end": self.end,
            "pad": self.pad,
            "clean": self.clean,
        }


class HfTokenizer(Tokenizer):
    """A `tokenizers` pipeline: CLIP's BPE, SigLIP's exported unigrams, or a list of words."""

    kind = "hf"

    def __init__(self, pipeline: tokenizers.Tokenizer, **rows: Any) -> None:
        super().__init__(**rows)
        # What a file says about rows is for other libraries; ours are made in `encode`.
        pipeline.no_truncation()
        pipeline.no_padding()
        self.pipeline = pipeline

    def tokens(self, text: str) -> list[int]:
        return self.pipeline.encode(text, add_special_tokens=False).ids

    def text(self, ids: Sequence[int]) -> str:
        return self.pipeline.decode(list(ids)).replace("</w>", " ").strip()

    def _unknown_id(self) -> int | None:
        name = getattr(self.pipeline.model, "unk_token", None) or "<unk>"
        number = self.pipeline.token_to_id(name)
        # CLIP names its end of text as unknown; its bytes spell everything.
        return None if number == self.end else number

    def unknown(self, text: str) -> list[str]:
        text = CLEAN[self.clean](text)
        encoding = self.pipeline.encode(text, add_special_tokens=False)
        if not encoding.ids:
            return [text]
        number = self._unknown_id()
        spans = [
            span for i, span in zip(encoding.ids, encoding.offsets, strict=True) if i == number
        ]
        return list(dict.fromkeys(_word_around(text, *span) for span in spans))

    def save(self, folder: Path) -> None:
        (folder / HF_FILE).write_text(self.pipeline.to_str(), encoding="utf-8")


class SentencePieceTokenizer(Tokenizer):
    """A sentencepiece model: SigLIP (`c4_en`) and SigLIP 2 (Gemma's)."""

    kind = "sentencepiece"

    def __init__(self, model: bytes, **rows: Any) -> None:
        super().__init__(**rows)
        self.model = model
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    def tokens(self, text: str) -> list[int]:
        return list(self.processor.encode(text))

    def text(self, ids: Sequence[int]) -> str:
        return self.processor.decode(list(ids))

    def unknown(self, text: str) -> list[str]:
        number = self.processor.unk_id()
        words = CLEAN[self.clean](text).split()
        return [w for w in dict.fromkeys(words) if number in self.processor.encode(w)] or (
            [] if words else [text]
        )

    def save(self, folder: Path) -> None:
        (folder / SENTENCEPIECE_FILE).write_bytes(self.model)


def _word_around(text: str, start: int, stop: int) -> str:
    while start > 0 and not text[start - 1].isspace():
        start -= 1
    while stop < len(text) and not text[stop].isspace():
        stop += 1
    return text[start:stop].strip()


def openai_tokenizer(context: int = 77, *, pad: int | None = 0) -> HfTokenizer:
    """Builds CLIP's tokenizer from the vocabulary shipped here.

    Args:
        context: length of a row.
        pad: 0 as OpenAI and open_clip do; None pads with the end token as Hugging Face does.
    """
    pipeline = clip_tokenizer()
    end = pipeline.token_to_id(END)
    return HfTokenizer(
        pipeline,
        context=context,
        start=pipeline.token_to_id(START),
        end=end,
        pad=end if pad is None else pad,
    )


def word_tokenizer(words: Sequence[str], context: int) -> HfTokenizer:
    """Builds a tokenizer over a closed list of words, for models trained from scratch.

    Ids: 0 pad, 1 unknown, then the words, then start (V−2) and end (V−1). Text is lower-cased;
    white space and punctuation separate words.

    Args:
        words: lower-case words, each once.
        context: length of a row.
    """
    names = ["<pad>", "<unk>", *words, START, END]
    vocab = {name: i for i, name in enumerate(names)}
    if len(vocab) != len(names):
        raise UserError("words: expected each word once, got duplicates; remove them")
    pipeline = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab=vocab, unk_token="<unk>"))
    pipeline.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.NFC(), tokenizers.normalizers.Lowercase()]
    )
    pipeline.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(r"[\s\p{P}]+"), behavior="removed"
    )
    return HfTokenizer(pipeline, context=context, start=len(names) - 2, end=len(names) - 1, pad=0)


def load_tokenizer(folder: Path, entry: Mapping[str, Any]) -> Tokenizer:
    """Loads a tokenizer from its vocabulary file in `folder` and its entry in our config.

    Raises:
        UserError: for an unknown kind, or a vocabulary file that is missing or broken.
    """
    entry = dict(entry)
    kind = entry.pop("kind", None)
    if kind not in ("hf", "sentencepiece"):
        unknown_name(str(kind), ("hf", "sentencepiece"), "tokenizer kind")
    try:
        if kind == "hf":
            return HfTokenizer(read_pipeline(folder / HF_FILE), **entry)
        return SentencePieceTokenizer(read_sentencepiece(folder / SENTENCEPIECE_FILE), **entry)
    except TypeError as error:
        raise UserError(
            f"{folder}/config.json: tokenizer: expected context, start, end, pad and clean, got "
            f"{sorted(entry)}; correct the file"
        ) from error


def read_pipeline(path: Path) -> tokenizers.Tokenizer:
    """Reads a tokenizer.json; a missing or broken one raises UserError."""
    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # `tokenizers` raises bare Exception
        raise UserError(
            f"{path}: expected a tokenizer of the `tokenizers` library, got {_short(error)}; "
            "download the file again"
        ) from error


def read_sentencepiece(path: Path) -> bytes:
    """Reads a sentencepiece model; a missing or broken one raises UserError."""
    try:
        model = path.read_bytes()
        # The library takes an empty file for a request to load none.
        if not model or not len(sentencepiece.SentencePieceProcessor(model_proto=model)):
            raise RuntimeError("an empty file")
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{path}: expected a sentencepiece model, got {_short(error)}; download the file again"
        ) from error
    return model


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]

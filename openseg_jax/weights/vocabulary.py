"""Finds the tokenizer of a foreign model folder.

CLIP's vocabulary is the same everywhere and ships with this package. SigLIP's has to come with
the weights. Which id pads a row is taken from the folder, because models differ: Hugging Face
pads CLIP with the end token, open_clip with 0; SigLIP pads with the end token, SigLIP 2 with 0,
and pools the last token of the row, padding included.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers

from openseg_jax.errors import UserError
from openseg_jax.text.clip_bpe import END, START, build
from openseg_jax.text.tokenizer import (
    HfTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    openai_tokenizer,
    read_pipeline,
    read_sentencepiece,
)
from openseg_jax.weights.folder import read_json

_CLIP_VOCABULARY = 49408
_GEMMA_VOCABULARY = 256000
_SENTENCEPIECE_FILES = (
    "spiece.model", "tokenizer.model", "sentencepiece.model", "gemma_tokenizer.model",
)  # fmt: skip
# big_vision trains LiT with rows of 16 tokens, [CLS] included, whatever BERT's table holds.
_LIT_CONTEXT = 16


def _settings(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            settings.update(read_json(folder / name))
    return settings


def _pad_token(folder: Path) -> str | None:
    token = _settings(folder).get("pad_token")
    return token.get("content") if isinstance(token, dict) else token


def _need(pipeline: Any, token: str, folder: Path) -> int:
    number = pipeline.token_to_id(token)
    if number is None:
        raise UserError(
            f"{folder}: expected the token {token!r} in the vocabulary, found none; "
            "download the tokenizer that belongs to these weights"
        )
    return number


def clip_vocabulary(folder: Path, *, context: int, vocab_size: int, pad_end: bool) -> Tokenizer:
    """Builds CLIP's tokenizer from `folder`, or from the vocabulary shipped here.

    Args:
        folder: tokenizer.json, or vocab.json with merges.txt, or neither.
        context: length of a row.
        vocab_size: rows of the token table.
        pad_end: pad with the end token where the folder does not say; else with 0.
    """
    if (folder / "tokenizer.json").is_file():
        pipeline = read_pipeline(folder / "tokenizer.json")
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        pipeline = _from_merges(folder)
    elif vocab_size == _CLIP_VOCABULARY:
        return openai_tokenizer(context, pad=None if pad_end else 0)
    else:
        raise UserError(
            f"{folder}: expected tokenizer.json for a vocabulary of {vocab_size}, found none; "
            "download it"
        )
    end = _need(pipeline, END, folder)
    token = _pad_token(folder)
    pad = _need(pipeline, token, folder) if token else (end if pad_end else 0)
    start = _need(pipeline, START, folder)
    return HfTokenizer(pipeline, context=context, start=start, end=end, pad=pad)


def _from_merges(folder: Path) -> Any:
    vocab = read_json(folder / "vocab.json")
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    pairs = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
    try:
        return build(vocab, [(a, b) for a, b in pairs])
    except Exception as error:  # `tokenizers` raises bare Exception for a merge it lacks
        raise UserError(
            f"{folder}/merges.txt: expected merges that fit vocab.json, got {error}; "
            "download both again"
        ) from error


# Rows of the token table: the sentencepiece model that big_vision trained with.
_PUBLISHED = {
    32000: "c4_en's (cc_en.32000)",
    250000: "mc4's (mc4.250000.100extra)",
    _GEMMA_VOCABULARY: "Gemma's",
}


def siglip_vocabulary(
    folder: Path, *, context: int, vocab_size: int, clean: str | None = None
) -> Tokenizer:
    """Builds SigLIP's or SigLIP 2's tokenizer from `folder`.

    Args:
        folder: tokenizer.json or a sentencepiece model.
        context: length of a row.
        vocab_size: rows of the token table; 256,000 is SigLIP 2's.
        clean: a key of `tokenizer.CLEAN`; None takes "lower" for SigLIP 2 and "canonicalize" for
            a SigLIP tokenizer of Hugging Face, else "lower" as big_vision does.
    """
    second = vocab_size >= _GEMMA_VOCABULARY
    if clean is None:
        named = str(_settings(folder).get("tokenizer_class", ""))
        clean = "canonicalize" if named.startswith("Siglip") and not second else "lower"
    rows = {"context": context, "start": None, "end": 1, "clean": clean}
    if (folder / "tokenizer.json").is_file():
        pipeline = read_pipeline(folder / "tokenizer.json")
        token = _pad_token(folder)
        pad = _need(pipeline, token, folder) if token else int(not second)
        return HfTokenizer(pipeline, pad=pad, **rows)
    for name in _SENTENCEPIECE_FILES:
        if (folder / name).is_file():
            model = read_sentencepiece(folder / name)
            return SentencePieceTokenizer(model, pad=int(not second), **rows)
    which = _PUBLISHED.get(vocab_size, f"the training's own ({vocab_size} pieces)")
    raise UserError(
        f"{folder}: expected {which} sentencepiece model (spiece.model, tokenizer.model) or "
        "tokenizer.json, found neither; put it beside the weights"
    )


def bert_vocabulary(path: Path) -> Tokenizer:
    """Builds LiT's tokenizer, BERT's lower-case WordPiece, from the list beside its weights.

    A row is [CLS], then tokens, then padding: big_vision's `bert_tokenize` adds no [SEP].

    Args:
        path: of the weights; the list is `<stem>.txt`, as published, or vocab.txt.

    Raises:
        UserError: when there is no list, or it is not BERT's.
    """
    files = [path.with_suffix(".txt"), path.with_name("vocab.txt")]
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        raise UserError(
            f"{path.parent}: expected BERT's list of word pieces ({files[0].name} or vocab.txt), "
            "found neither; put it beside the weights"
        )
    try:
        words = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot read ({error}); download the file again") from error
    vocab = {word: i for i, word in enumerate(words)}
    if vocab.get("[PAD]") != 0 or not {"[CLS]", "[UNK]"} <= vocab.keys():
        raise UserError(
            f"{file}: expected BERT's word pieces, [PAD] first, with [UNK] and [CLS], got another "
            "list; download the one that belongs to these weights"
        )
    pipeline = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    pipeline.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    pipeline.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    pipeline.decoder = tokenizers.decoders.WordPiece()
    return HfTokenizer(pipeline, context=_LIT_CONTEXT, start=vocab["[CLS]"], end=None, pad=0)

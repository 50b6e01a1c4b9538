"""CLIP's byte-pair vocabulary, built from OpenAI's merges that ship with this package.

`clip_bpe.txt.gz` holds the 48,894 merges that CLIP uses, one a line in order of rank, out of the
262,144 of OpenAI's file. They are under the MIT licence, see `clip_bpe_NOTICE.txt`.
"""

from __future__ import annotations

import gzip
import importlib.resources
from collections.abc import Iterable

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)

START, END = "<|startoftext|>", "<|endoftext|>"
# OpenAI's pattern for what becomes a word before merging: contractions, letters, single digits,
# and runs of anything else.
_SPLIT = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


def byte_letters() -> list[str]:
    """Returns the printable letter that stands for each of the 256 bytes, as in GPT-2."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {b: chr(b) for b in kept}
    spare = (b for b in range(256) if b not in letters)
    letters.update({b: chr(256 + n) for n, b in enumerate(spare)})
    return [letters[b] for b in range(256)]


def _vocabulary_letters() -> list[str]:
    # The vocabulary lists printable bytes first and the others after, not by value.
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = byte_letters()
    return [letters[b] for b in [*kept, *(b for b in range(256) if b not in kept)]]


def read_merges() -> list[tuple[str, str]]:
    """Reads the shipped merges, in order of rank."""
    packed = importlib.resources.files("openseg_jax.text").joinpath("clip_bpe.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").splitlines()
    return [(a, b) for a, b in (line.split(" ") for line in lines)]


def vocabulary(merges: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Numbers the tokens as CLIP does: bytes, bytes that end a word, merges, start, end."""
    letters = _vocabulary_letters()
    tokens = [*letters, *(x + "</w>" for x in letters), *(a + b for a, b in merges), START, END]
    return {token: i for i, token in enumerate(tokens)}


def build(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """Builds the `tokenizers` pipeline of CLIP from a vocabulary and its merges.

    Text is NFC-normalised, runs of white space become one blank, and case is folded. OpenAI also
    repairs mojibake and HTML entities (ftfy, html.unescape), which matters for scraped captions
    only and is left out.
    """
    model = models.BPE(
        vocab=vocab, merges=merges, end_of_word_suffix="</w>", unk_token=END, fuse_unk=False
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    for token in (START, END):
        if token in vocab:
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=True)])
    return tokenizer


def clip_tokenizer() -> Tokenizer:
    """Builds CLIP's own tokenizer from the shipped merges."""
    merges = read_merges()
    return build(vocabulary(merges), merges)

"""CLIP's byte-pair encoding in plain Python, slow and obvious: an oracle for the fast one."""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata

from openseg_jax.text.clip_bpe import END, START, read_merges

_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


def _letters() -> dict[int, str]:
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {b: chr(b) for b in plain}
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + len(table) - len(plain))
    return table


LETTERS = _letters()


@functools.cache
def tables() -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """Returns ids by token and ranks by pair."""
    merges = read_merges()
    letters = list(LETTERS.values())
    tokens = letters + [x + "</w>" for x in letters] + [a + b for a, b in merges] + [START, END]
    return {t: i for i, t in enumerate(tokens)}, {pair: i for i, pair in enumerate(merges)}


def words(text: str) -> list[str]:
    """Splits as OpenAI's pattern does: contractions, letters, single digits, runs of others."""
    out, i = [], 0
    kind = lambda c: unicodedata.category(c)[0]  # noqa: E731
    while i < len(text):
        if text[i].isspace():
            i += 1
            continue
        special = next((s for s in (START, END, *_CONTRACTIONS) if text.startswith(s, i)), None)
        if special:
            end = i + len(special)
        elif kind(text[i]) == "N":
            end = i + 1
        else:
            letter, end = kind(text[i]) == "L", i + 1
            while end < len(text) and not text[end].isspace():
                if kind(text[end]) == "N" or (kind(text[end]) == "L") != letter:
                    break
                end += 1
        out.append(text[i:end])
        i = end
    return out


def encode(text: str) -> list[int]:
    """Returns the ids of a sentence without start and end."""
    ids, ranks = tables()
    text = re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).lower()
    out = []
    for word in words(text):
        if word in (START, END):
            out.append(ids[word])
            continue
        parts = [LETTERS[b] for b in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            pairs = enumerate(itertools.pairwise(parts))
            rank, i = min((ranks.get(pair, 1 << 30), i) for i, pair in pairs)
            if rank == 1 << 30:
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        out += [ids[p] for p in parts]
    return out

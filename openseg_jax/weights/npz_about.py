"""What an npz file of parameters cannot hold, kept in a folder beside it.

`x.npz` goes with `x.about/`: about.json (tokenizer, preprocessing, provenance, defaults) and the
tokenizer's vocabulary. big_vision does not look at it; without it, we need the tokenizer's own
file beside the npz.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openseg_jax.errors import UserError
from openseg_jax.files import atomic_folder
from openseg_jax.models.variants import Preprocess, TextConfig
from openseg_jax.text.tokenizer import (
    HfTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
)
from openseg_jax.weights.folder import read_json

ABOUT_FILE = "about.json"
# A sentencepiece model may carry sentinels that no text ever gives (mc4's has 100), and a table a
# few rows that no text reads.
_SLACK = 128


def about_folder(path: Path) -> Path:
    """Returns the folder that goes with an npz file."""
    return path.with_suffix(".about")


def check_about(path: Path) -> None:
    """Raises UserError where the folder that goes with the npz file `path` is somebody else's."""
    folder = about_folder(path)
    if folder.exists() and not (folder / ABOUT_FILE).is_file():
        raise UserError(f"{folder}: exists and is not ours; name another npz file")


def write_about(
    path: Path,
    tokenizer: Tokenizer,
    preprocess: Preprocess,
    provenance: Mapping[str, str],
    defaults: Mapping[str, Any],
) -> Path:
    """Writes the folder that goes with the npz file `path`, and returns it.

    Raises:
        UserError: when another folder of that name is there.
    """
    check_about(path)
    folder = about_folder(path)
    about = {
        "tokenizer": tokenizer.to_dict(),
        "preprocess": preprocess.to_dict(),
        "provenance": dict(provenance),
        "defaults": dict(defaults),
    }
    with atomic_folder(folder) as aside:
        text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
        (aside / ABOUT_FILE).write_text(text, encoding="utf-8")
        tokenizer.save(aside)
    return folder


def read_about(
    path: Path,
) -> tuple[Tokenizer, Preprocess, dict[str, str], dict[str, Any]] | None:
    """Reads what `write_about` wrote for the npz file `path`; None where there is nothing.

    Raises:
        UserError: for a folder that is incomplete or broken.
    """
    folder = about_folder(path)
    if not folder.is_dir():
        return None
    about = read_json(folder / ABOUT_FILE)
    for key in ("tokenizer", "preprocess", "provenance", "defaults"):
        if not isinstance(about.get(key), dict):
            raise UserError(f"{folder / ABOUT_FILE}: expected a section {key!r}; convert again")
    return (
        load_tokenizer(folder, about["tokenizer"]),
        Preprocess.from_dict(about["preprocess"]),
        dict(about["provenance"]),
        dict(about["defaults"]),
    )


def check_vocabulary(tokenizer: Tokenizer, text: TextConfig, file: str) -> None:
    """Raises UserError for a tokenizer that is not the one a table of tokens was trained with.

    Ids beyond the table would silently read its last row, and a smaller vocabulary would silently
    name other rows than the words' own.
    """
    if isinstance(tokenizer, SentencePieceTokenizer):
        pieces = len(tokenizer.processor)
    elif isinstance(tokenizer, HfTokenizer):
        pieces = tokenizer.pipeline.get_vocab_size()
    else:
        return
    if abs(pieces - text.vocab_size) > _SLACK:
        raise UserError(
            f"{file}: expected a tokenizer of {text.vocab_size} pieces beside it, got one of "
            f"{pieces}; put the one there that the weights were trained with"
        )

"""Captioned pictures from files by the names that configs use; for every task on image and text."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np

from openseg_jax.errors import UserError, expected, unknown_name
from openseg_jax.inputs.pairs import Extras, PairExamples, Pairs
from openseg_jax.inputs.pipeline import Example, Source
from openseg_jax.inputs.synthetic import Synthetic
from openseg_jax.text.tokenizer import Tokenizer
from openseg_jax.train.state import Config
from openseg_jax.types import UInt8


def _path(config: Config) -> str:
    if not config.input.path:
        what = {"folder": "a folder of pictures", "webdataset": "tar shards"}[config.input.name]
        raise expected("input.path", what, "none", "add --set input.path=…")
    return config.input.path


def _folder(config: Config) -> Pairs:
    from openseg_jax.inputs.caption_folder import CaptionFolder

    return CaptionFolder(_path(config), config.input.captions)


def _webdataset(config: Config) -> Pairs:
    from openseg_jax.inputs.tar_shards import TarShards

    return TarShards(_path(config), config.input.cache)


def _tfds(config: Config) -> Pairs:
    from openseg_jax.inputs.tfds_captions import open_tfds

    i = config.input
    return open_tfds(i.dataset, i.split, i.path)


# Names of `config.input.name` that read files.
PAIRS: dict[str, Callable[[Config], Pairs]] = {
    "folder": _folder,
    "webdataset": _webdataset,
    "tfds": _tfds,
}
# What one example is, for the provenance.
SAW = {
    "miniature": "captioned pictures of the miniature stream (seed {seed})",
    "synthetic": "random pictures with random captions",
    "folder": "captioned pictures of the folder {path}",
    "webdataset": "captioned pictures of the shards {path}",
    "tfds": "captioned pictures of {dataset} ({split})",
}


def saw_of(config: Config) -> str:
    """Says what one example of a config's input is."""
    return SAW[config.input.name].format(**config.input.to_dict())


def open_pairs(config: Config, others: tuple[str, ...] = ()) -> Pairs | None:
    """Opens the files that a config names; None where its input is one of `others`.

    Raises:
        UserError: for an unknown input, or data that is not there.
    """
    name = config.input.name
    if name in others:
        return None
    if name not in PAIRS:
        unknown_name(name, (*PAIRS, *others), "input")
    return PAIRS[name](config)


def pair_source(
    config: Config,
    pairs: Pairs,
    tokenizer: Tokenizer,
    size: int,
    extras: Extras | None = None,
) -> Source:
    """Makes the examples of training: random crops and captions of a fixed length.

    Args:
        config: its seed and input.
        pairs: from `open_pairs`.
        tokenizer: of the text tower.
        size: of the image tower, pixels.
        extras: see `PairExamples`.
    """
    low, high = config.input.crop
    if not 0 < low <= high <= 1:
        raise expected(
            "input.crop", "two shares in (0, 1], the lesser first", str((low, high)), "try (0.5, 1)"
        )
    rows = short_rows(tokenizer, config.input.context)
    return PairExamples(
        pairs, rows.encode, size, seed=config.seed, scale=(float(low), float(high)), extras=extras
    )


def synthetic_source(
    config: Config,
    tokenizer: Tokenizer,
    size: int,
    vocabulary: int,
    extras: Callable[[UInt8[np.ndarray, "H W 3"]], Example] | None = None,
) -> Source:
    """Makes random examples, for benchmarks and plans; see `inputs.synthetic`.

    Args:
        config: its input.
        tokenizer: whose rows captions look like.
        size: of the image tower, pixels.
        vocabulary: of the text tower.
        extras: further arrays of an example, from its picture.
    """
    t = short_rows(tokenizer, config.input.context)
    return Synthetic(
        size, t.context, vocabulary, t.start, t.end, t.pad, config.input.examples,
        config.input.seed, extras,
    )  # fmt: skip


def short_rows(tokenizer: Tokenizer, context: int) -> Tokenizer:
    """Returns the same tokenizer with shorter rows, as captions of training are cut.

    Args:
        tokenizer: of the text tower; a causal one that is pooled at the end of text may be given
            shorter rows.
        context: tokens of a row; 0 keeps the tower's.

    Raises:
        UserError: for more tokens than the tower has positions.
    """
    if context == 0:
        return tokenizer
    if not 2 < context <= tokenizer.context:
        raise UserError(
            f"input.context: expected 3 to {tokenizer.context} tokens, got {context}; "
            "the text tower has no more positions"
        )
    short = copy.copy(tokenizer)
    short.context = context
    return short

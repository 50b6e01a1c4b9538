"""Builds a data set of TFDS: what `tfds build` does, without the TensorFlow that it needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from openseg_jax.errors import UserError, unknown_name

__all__ = ["build", "main", "names"]


def names() -> tuple[str, ...]:
    """Lists what our builders build, e.g. "ade20k_semantic/847"."""
    from openseg_jax.data import builders

    kinds: list[Any] = [getattr(builders, name) for name in builders.__all__]
    return tuple(
        f"{kind.name}/{config.name}" if config else kind.name
        for kind in kinds
        for config in kind.BUILDER_CONFIGS or [None]
    )


def build(name: str, root: Path, data_dir: Path | None = None) -> Path:
    """Builds a data set as array_record, unless it is built.

    Args:
        name: one of `names`.
        root: folder of the official archives, or of a prepared data set.
        data_dir: where TFDS keeps data sets; None takes its own default.

    Returns:
        the folder that was written.

    Raises:
        UserError: for an unknown name, or naming the file that is missing or wrong.
    """
    if name not in names():
        unknown_name(name, names(), "TFDS data set")
    builder = tfds.builder(
        name, data_dir=None if data_dir is None else str(data_dir), file_format="array_record"
    )
    # The data are not in TFDS's own bucket.
    there = tfds.download.DownloadConfig(manual_dir=str(root), try_download_gcs=False)
    builder.download_and_prepare(download_config=there)
    return Path(builder.data_path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `python -m openseg_jax.data.builders`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m openseg_jax.data.builders", description="Build a data set of TFDS."
    )
    parser.add_argument("name", metavar="NAME", help=f"one of: {', '.join(names())}")
    parser.add_argument("--root", type=Path, required=True, help="folder of the archives")
    parser.add_argument("--data-dir", type=Path, help="where TFDS keeps data sets")
    given = parser.parse_args(arguments)
    try:
        print(build(given.name, given.root, given.data_dir))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0

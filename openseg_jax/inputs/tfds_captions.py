"""Captioned pictures from TensorFlow Datasets, through `data_source`: no TensorFlow at run time.

COCO is built once with `tfds build coco_captions --file_format=array_record`, which needs
TensorFlow; reading it needs only the extra "data".
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from openseg_jax.errors import UserError

_INSTALL = "pip install 'openseg_jax[data]'"


class TfdsCaptions:
    """Pairs of a TFDS data source; see `inputs.pairs.Pairs`.

    Args:
        source: examples {"image": bytes, "captions": …}; bytes of the file, not decoded. Captions
            are a string, a list of strings or objects with "text", or an object of lists, as
            feature dictionaries of sequences come.
        per_image: captions of a picture; each is an example. COCO has five, seldom six.
    """

    def __init__(self, source: Sequence[Any], per_image: int = 5) -> None:
        self.source, self.per_image = source, per_image

    def __len__(self) -> int:
        return len(self.source) * self.per_image

    def __getitem__(self, index: int) -> tuple[bytes, str]:
        row = self.source[index // self.per_image]
        captions = _captions(row)
        which = index % self.per_image
        # Where a picture has fewer, its captions come up more than once.
        return bytes(row["image"]), captions[which % len(captions)] if captions else ""

    def name(self, index: int) -> str:
        """Says which example it is."""
        return f"TFDS example {index // self.per_image}"


def open_tfds(
    name: str, split: str = "train", folder: str = "", per_image: int = 5
) -> TfdsCaptions:
    """Opens a prepared data set of TFDS.

    Args:
        name: e.g. "coco_captions" or "coco_captions/2014".
        split: e.g. "train".
        folder: TFDS's `data_dir`; "" takes its own default.
        per_image: as in `TfdsCaptions`.

    Raises:
        UserError: with the command that mends it, when TFDS is not installed or the data set is
            not prepared.
    """
    _, source = open_source(name, split, folder, ("image",))
    return TfdsCaptions(source, per_image)


def open_source(
    name: str, split: str, folder: str, undecoded: Iterable[str], command: str = ""
) -> tuple[Any, Sequence[Any]]:
    """Opens a prepared data set of TFDS for random access.

    Args:
        name, split, folder: as in `open_tfds`.
        undecoded: features that come as the bytes of their files.
        command: that builds it, for the message; "" says how TFDS does.

    Returns:
        TFDS's builder; its records.

    Raises:
        UserError: as in `open_tfds`.
    """
    try:
        tfds: Any = importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise UserError(f"input 'tfds': needs tensorflow_datasets; run: {_INSTALL}") from error
    try:
        builder = _builder(tfds, name, folder)
        skip = {key: tfds.decode.SkipDecoding() for key in undecoded}
        source = builder.as_data_source(split, decoders=skip)
    except Exception as error:  # TFDS raises many kinds, some of them its own
        where = f" --data_dir={folder}" if folder else ""
        command = command or f"tfds build {name} --file_format=array_record{where}"
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"input 'tfds': expected {name} split {split!r} prepared as array_record, got: "
            f"{reason}; run: {command}"
        ) from error
    return builder, source


def _builder(tfds: Any, name: str, folder: str) -> Any:
    # TFDS prefers a builder's code, and that of COCO imports TensorFlow; what it has written will
    # do to read.
    try:
        naming: Any = importlib.import_module("tensorflow_datasets.core.naming")
        files: Any = importlib.import_module("tensorflow_datasets.core.read_only_builder")
        short, options = naming.parse_builder_name_kwargs(name, data_dir=folder or None)
        return files.builder_from_files(str(short), **options)
    except Exception:  # not prepared, or another TFDS: its own way says what is wrong
        return tfds.builder(name, data_dir=folder or None)


def _captions(row: Any) -> list[str]:
    found = row["captions"] if "captions" in row else row.get("caption", [])
    if isinstance(found, dict):
        found = found.get("text", [])
    if isinstance(found, str | bytes):
        found = [found]
    texts = [item["text"] if isinstance(item, dict) else item for item in _listed(found)]
    return [t.decode("utf-8", "replace") if isinstance(t, bytes) else str(t) for t in texts]


def _listed(found: Any) -> list[Any]:
    return found.tolist() if isinstance(found, np.ndarray) else list(found)

"""Finds and opens a foreign folder's weight files, whatever container they are in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from openseg_jax.errors import UserError
from openseg_jax.weights.folder import read_json
from openseg_jax.weights.safetensors import read_safetensors
from openseg_jax.weights.torch_zip import read_torch_zip


def open_tensors(path: Path) -> dict[str, Any]:
    """Opens one file of lazy tensors: safetensors by its suffix, else a torch zip file."""
    return read_safetensors(path) if path.suffix == ".safetensors" else read_torch_zip(path)


def find_weights(folder: Path, stems: Iterable[str]) -> Path | None:
    """Returns the weight file or shard index in `folder`, safetensors first, or None."""
    for suffix in (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json"):
        for stem in stems:
            if (folder / f"{stem}{suffix}").is_file():
                return folder / f"{stem}{suffix}"
    return None


def open_weights(folder: Path, stems: Iterable[str]) -> tuple[Path, dict[str, Any]]:
    """Opens the weights in `folder`, joining shards.

    Args:
        folder: a downloaded model.
        stems: file names without suffix, e.g. "model", in order of preference.

    Returns:
        The file (for messages) and lazy tensors by name.

    Raises:
        UserError: when there is no such file, or a shard is missing or broken.
    """
    stems = tuple(stems)
    path = find_weights(folder, stems)
    if path is None:
        raise UserError(
            f"{folder}: expected {' or '.join(f'{s}.safetensors' for s in stems)} or .bin, "
            "found neither; finish the download"
        )
    if not path.name.endswith(".index.json"):
        return path, open_tensors(path)
    names = read_json(path).get("weight_map")
    if not isinstance(names, dict):
        raise UserError(f"{path}: expected an index with a weight_map; download the file again")
    tensors: dict[str, Any] = {}
    for name in sorted(set(names.values())):
        if Path(name).name != name or not (folder / name).is_file():
            raise UserError(f"{path}: names {name!r}, which is not in the folder; download it too")
        tensors.update(open_tensors(folder / name))
    return path, tensors

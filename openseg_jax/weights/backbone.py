"""A generator's ImageNet backbone, as detectron2 hands it out: "DeepLab/R-103.pkl".

That file is a pickle of NumPy arrays. It is read by an unpickler that can build arrays, dicts and
texts and nothing else; a `.pth` with the same names is read as well.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from openseg_jax.errors import UserError, expected
from openseg_jax.models.resnet import ResNet, ResNetConfig
from openseg_jax.types import Params
from openseg_jax.weights.generator import resnet_leaves
from openseg_jax.weights.report import Report
from openseg_jax.weights.torch_zip import is_torch_zip, read_torch_zip
from openseg_jax.weights.tree import convert, flatten

__all__ = ["from_state_dict", "load_backbone", "read_arrays"]

_PREFIXES = ("backbone.bottom_up.", "backbone.")
# The classifier that a backbone was trained with, and counters that nothing reads.
_ALLOW = (r"(stem\.|linear\.|fc\.|head\.)?(fc|linear|head|classifier)?\.?(weight|bias)",
          r".*num_batches_tracked")  # fmt: skip


def _encode(text: Any, codec: Any = "latin1") -> bytes:
    # Protocol 2 writes bytes as a text and this call.
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("bytes in an unknown encoding")
    return text.encode("latin1")


def _reconstruct(kind: Any, shape: Any, dtype: Any) -> np.ndarray:
    # What NumPy's own function does for the one class that is let through.
    if kind is not np.ndarray:
        raise pickle.UnpicklingError("an array of an unknown class")
    return np.ndarray.__new__(np.ndarray, tuple(shape), dtype)


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise pickle.UnpicklingError("a scalar of an unknown kind")
    return np.frombuffer(data, dtype, 1)[0]


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _encode,
} | {
    (f"numpy.{core}.multiarray", name): function
    for core in ("core", "_core")
    for name, function in (("_reconstruct", _reconstruct), ("scalar", _scalar))
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _KNOWN[module, name]


def read_arrays(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads arrays by name from a pickle of NumPy arrays or a torch zip.

    Args:
        path: a dict of arrays, or one with such a dict as "model".

    Raises:
        UserError: for a file that is not there, holds anything else, or tries to call something.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; download the backbone first")
    if is_torch_zip(path):
        return dict(read_torch_zip(path))
    try:
        root = _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Exception as error:
        raise UserError(
            f"{path}: expected a pickle of NumPy arrays, got one that cannot be read ({error}); "
            "download it again, and only from a source that you trust"
        ) from error
    model = root.get("model", root) if isinstance(root, Mapping) else None
    if not isinstance(model, Mapping):
        raise expected(str(path), "a dict of arrays", type(root).__name__, "is it a backbone?")
    return {
        str(name): array
        for name, array in model.items()
        if isinstance(array, np.ndarray) and not array.dtype.hasobject
    }


def from_state_dict(
    state: Mapping[str, Any], config: ResNetConfig, *, file: str = "state dict"
) -> tuple[Params, Report]:
    """Converts a backbone's arrays.

    Args:
        state: arrays by detectron2's names, with or without "backbone." before them.
        config: the sizes they must have.
        file: for messages.

    Returns:
        The parameters of `models.resnet.ResNet`, and the report.

    Raises:
        UserError: for missing, unexpected or wrongly shaped names.
    """
    for prefix in _PREFIXES:
        if f"{prefix}stem.conv1.weight" in state:
            state = {k.removeprefix(prefix): x for k, x in state.items() if k.startswith(prefix)}
    if "stem.conv1.weight" not in state:
        first = ", ".join(list(state)[:3]) or "no arrays"
        raise expected(
            file, "detectron2's names (stem.conv1.weight, …)", first,
            'take "DeepLab/R-103.pkl" of its model zoo',
        )  # fmt: skip
    side = 32
    blank = jax.ShapeDtypeStruct((1, side, side, 3), "float32")
    spec = jax.eval_shape(ResNet(config).init, jax.random.key(0), blank)["params"]
    return convert(state, resnet_leaves(config, source=""), flatten(spec), file=file, allow=_ALLOW)


def load_backbone(path: str | os.PathLike[str], config: ResNetConfig) -> tuple[Params, Report]:
    """Loads a backbone that was trained on ImageNet. See `from_state_dict`."""
    return from_state_dict(read_arrays(path), config, file=str(path))

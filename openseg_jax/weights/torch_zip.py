"""Reads torch's zip files without torch: `torch.save` archives and TorchScript modules.

A pickle is a program. The unpickler here knows how to build tensors, ordered dicts and inert bags
of attributes, and nothing else: any other name that a file asks for is refused with that name.
Tensors are views into a memory map, read when used.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from openseg_jax.errors import UserError

_MAX_PICKLE = 512 * 2**20
_LOCAL_HEADER = 30
_MAX_NODES, _MAX_DEPTH = 200_000, 40

_DTYPES: dict[str, Any] = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
    "bool": np.bool_,
}
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}


class TorchTensor:
    """A tensor on disk: shape and dtype now, numbers on `np.asarray`."""

    def __init__(
        self, raw: np.ndarray, dtype: Any, offset: int, shape: tuple[int, ...], stride: Any
    ) -> None:
        self.raw, self.dtype = raw, np.dtype(dtype)
        self.offset, self.shape, self.stride = offset, shape, stride

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        count = self.raw.size // self.dtype.itemsize
        flat = self.raw[: count * self.dtype.itemsize].view(self.dtype)[self.offset :]
        strides = tuple(s * self.dtype.itemsize for s in self.stride)
        view = np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False)
        return view if dtype is None else view.astype(dtype)


class _Inert:
    """Something a pickle may name, and may not change."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "name", name)

    def __setattr__(self, key: str, value: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"it tries to set {key} of {self.name}")

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"it tries to change {self.name}")


class _Builder(_Inert):
    """One of the few things a pickle may call."""

    __slots__ = ()

    def __call__(self, *args: Any) -> Any:
        return _BUILDERS[self.name](*args)


class _Bag:
    """A TorchScript object: its attributes, and none of its behaviour."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("a module whose state is no dict")
        self.__dict__["attributes"] = state


def _rebuild_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, *rest: Any, dtype: Any = None
) -> TorchTensor:
    raw, own = storage
    dtype = np.dtype(dtype or own)
    shape, stride = tuple(map(int, size)), tuple(map(int, stride))
    offset = int(offset)
    if len(shape) != len(stride) or min((offset, *shape, *stride)) < 0:
        raise pickle.UnpicklingError("a tensor with an impossible shape")
    reach = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) + 1
    if 0 not in shape and reach * dtype.itemsize > raw.size:
        raise pickle.UnpicklingError("a tensor that reaches beyond its storage")
    return TorchTensor(raw, dtype, offset, shape, stride)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> TorchTensor:
    if not isinstance(dtype, _Inert) or dtype.name not in _DTYPES:
        raise pickle.UnpicklingError("a tensor without a dtype")
    return _rebuild_tensor(storage, offset, size, stride, dtype=_DTYPES[dtype.name])


_BUILDERS = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": lambda tensor, *rest: tensor,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch.device": lambda *where: str(where),
    "torch.jit._pickle.build_intlist": list,
    "torch.jit._pickle.build_doublelist": list,
    "torch.jit._pickle.build_boollist": list,
    "torch.jit._pickle.build_tensorlist": list,
    "torch.jit._pickle.restore_type_tag": lambda value, tag: value,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, archive: _Archive) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self.archive = archive

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in _BUILDERS:
            return _Builder(full)
        if full == "collections.OrderedDict":
            return collections.OrderedDict
        if module in ("torch", "torch.storage"):
            if name in _STORAGES:
                return _Inert(_STORAGES[name])
            if name in _DTYPES:
                return _Inert(name)
        if module == "__torch__" or module.startswith("__torch__."):
            # A fresh class for each file: nothing a pickle does to it outlives the load.
            return type("Bag", (_Bag,), {})
        raise _Refused(full)

    def persistent_load(self, pid: Any) -> tuple[np.ndarray, Any]:
        kind, storage, key, _, count = pid
        if kind != "storage" or not isinstance(storage, _Inert):
            raise pickle.UnpicklingError("a reference that is no tensor storage")
        dtype = np.dtype(_DTYPES[storage.name])
        return self.archive.storage(str(key), int(count) * dtype.itemsize), dtype


class _Refused(Exception):
    """Carries the name that a pickle asked for."""


class _Archive:
    """The zip file: its pickle, and its storages as views of a memory map."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise _broken(path, _why_not_a_zip(path)) from error
        pickles = [n for n in self.zip.namelist() if n == "data.pkl" or n.endswith("/data.pkl")]
        if not pickles:
            raise _broken(path, "a zip file without data.pkl, so none of torch's")
        self.root = min(pickles, key=len).removesuffix("data.pkl")
        self.raw = np.memmap(path, np.uint8, "r")
        order = self.root + "byteorder"
        if order in self.zip.namelist() and self.zip.read(order) == b"big":
            raise UserError(
                f"{path}: expected little-endian numbers, found big-endian; "
                "save the file again on a little-endian machine"
            )

    def pickle(self) -> bytes:
        info = self.zip.getinfo(self.root + "data.pkl")
        if info.file_size > _MAX_PICKLE:
            raise _broken(self.path, f"a pickle of {info.file_size} bytes")
        try:
            return self.zip.read(info)
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise _broken(self.path, "a damaged data.pkl") from error

    def storage(self, key: str, need: int) -> np.ndarray:
        name = f"{self.root}data/{key}"
        try:
            info = self.zip.getinfo(name)
        except KeyError as error:
            raise _broken(self.path, f"no record {name}") from error
        if info.compress_type == zipfile.ZIP_STORED:
            head = self.raw[info.header_offset : info.header_offset + _LOCAL_HEADER]
            if head.size < _LOCAL_HEADER or head[:4].tobytes() != b"PK\x03\x04":
                raise _broken(self.path, f"no record where {name} should be")
            lengths = int(head[26:28].view("<u2")[0]) + int(head[28:30].view("<u2")[0])
            start = info.header_offset + _LOCAL_HEADER + lengths
            raw = self.raw[start : start + info.file_size]
        else:
            raw = np.frombuffer(self.zip.read(info), np.uint8)
        if raw.size < need:
            raise _broken(self.path, f"{raw.size} bytes of {need} in {name}")
        return raw


def _broken(path: Path, why: str) -> UserError:
    return UserError(
        f"{path}: expected a complete torch zip file, found {why}; download the file again"
    )


def _why_not_a_zip(path: Path) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror}); check the path") from error
    # Older torch wrote bare pickles that begin with protocol 2 and this magic number.
    if head[:2] == b"\x80\x02" and b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19" in head:
        raise UserError(
            f"{path}: expected a zip file as torch ≥ 1.6 writes, found torch's older pickle; "
            "save it again with `torch.save(torch.load(path, weights_only=True), path)`"
        )
    return "a zip file cut short" if head[:2] == b"PK" else "no zip file"


def is_torch_zip(path: Path) -> bool:
    """Says whether `path` is a zip file with torch's pickle in it."""
    try:
        with zipfile.ZipFile(path) as file:
            return any(n == "data.pkl" or n.endswith("/data.pkl") for n in file.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def is_torch_script(path: Path) -> bool:
    """Says whether a torch zip file is a TorchScript module rather than saved tensors."""
    with zipfile.ZipFile(path) as file:
        return any(n.endswith("constants.pkl") or "/code/" in n for n in file.namelist())


def _tensors(root: Any) -> dict[str, TorchTensor]:
    """Collects tensors by dotted name."""
    found, todo, seen = {}, [("", root, 0)], 0
    while todo:
        prefix, node, depth = todo.pop()
        seen += 1
        # A pickle may refer to itself, or to one dict from many places.
        if seen > _MAX_NODES or depth > _MAX_DEPTH:
            raise pickle.UnpicklingError("more entries than any model has")
        if isinstance(node, TorchTensor):
            found[prefix] = node
        items = node.__dict__.get("attributes") if isinstance(node, _Bag) else node
        if isinstance(items, Mapping):
            todo += [
                (f"{prefix}.{key}" if prefix else str(key), value, depth + 1)
                for key, value in items.items()
            ]
    return found


def read_torch_zip(path: str | os.PathLike[str]) -> dict[str, TorchTensor]:
    """Reads the tensors of a `torch.save` archive or a TorchScript module, by dotted name.

    Of a training checkpoint, the entry "state_dict" or "model" is taken, and the prefix "module."
    that data-parallel training adds is dropped.

    Args:
        path: the file.

    Returns:
        Lazy tensors: `np.asarray` reads one.

    Raises:
        UserError: for a file that is missing, cut short, big-endian, or an older bare pickle;
            for a pickle that asks for anything but tensors, naming what it asks for.
    """
    path = Path(path)
    archive = _Archive(path)
    try:
        root = _Unpickler(archive.pickle(), archive).load()
        for key in ("state_dict", "model"):
            if isinstance(root, Mapping) and isinstance(root.get(key), Mapping):
                root = root[key]
        tensors = _tensors(root)
    except _Refused as error:
        raise UserError(
            f"{path}: refused: this pickle tries to call {error}, and weights need only tensors; "
            "get a safetensors file, or save only the state dict"
        ) from error
    except UserError:
        raise
    except Exception as error:  # a pickle can raise anything on its way down
        reason = str(error) or type(error).__name__
        raise _broken(path, f"a damaged or odd pickle ({reason[:120]})") from error
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): x for name, x in tensors.items()}
    if not tensors:
        raise UserError(f"{path}: expected tensors, found none; check that it holds a state dict")
    return tensors

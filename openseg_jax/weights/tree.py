"""Parameter trees by name: flat and nested forms, rename tables, and the strict conversion.

A foreign format is a table of `Leaf` rows, one for each of our parameters. One function reads any
format through such a table and one writes it, so that every reader has a writer and a
round trip is a test of the table itself.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from openseg_jax.errors import expected
from openseg_jax.models.clip import CLIP, init_params
from openseg_jax.models.variants import CLIPConfig
from openseg_jax.types import Params
from openseg_jax.weights.report import Report

Shape = tuple[int, ...]

# layout: (source array → ours, ours → source array)
LAYOUTS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], ...]] = {
    "same": (lambda x: x, lambda x: x),
    # torch's Linear keeps (out, in); ours is (in, out).
    "linear": (lambda x: x.T, lambda x: x.T),
    # torch's Conv2d keeps O I H W; ours is H W I O.
    "conv": (lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),
    # torch's ConvTranspose2d keeps I O H W; ours is H W I O.
    "conv_transpose": (lambda x: x.transpose(2, 3, 0, 1), lambda x: x.transpose(2, 3, 0, 1)),
    # A grouped 1×1 Conv1d keeps (groups·out, in, 1); ours is (groups, in, out), square.
    "grouped": (
        lambda x: x.reshape(-1, x.shape[1], x.shape[1]).transpose(0, 2, 1),
        lambda x: x.transpose(0, 2, 1),
    ),
}


@dataclasses.dataclass(frozen=True)
class Leaf:
    """Where one of our parameters lives in another format.

    Attributes:
        target: our name, joined by "/".
        source: their name; "{i}" stands for the block's number where blocks are kept apart.
        layout: a key of `LAYOUTS`.
        part: (k, n): ours is the k-th of n equal parts along their first axis (packed q, k, v).
        shape: their shape for one block, where it is neither ours nor ours in `layout`.
    """

    target: str
    source: str
    layout: str = "same"
    part: tuple[int, int] | None = None
    shape: Shape | None = None

    @property
    def per_block(self) -> bool:
        """True when each block has an array of its own in the source."""
        return "{i}" in self.source

    def piece_shape(self, target: Shape) -> Shape:
        """Returns the shape of one of our pieces in the source's layout, before packing."""
        ours = target[1:] if self.per_block else target
        if self.shape is not None:
            depth = () if self.per_block or "/blocks/" not in self.target else target[:1]
            return (*depth, *self.shape)
        if self.layout == "conv":
            return (ours[3], ours[2], ours[0], ours[1])
        if self.layout == "conv_transpose":
            return (ours[2], ours[3], ours[0], ours[1])
        if self.layout == "grouped":
            return (ours[0] * ours[2], ours[1], 1)
        return ours[::-1] if self.layout == "linear" else ours

    def source_shape(self, target: Shape) -> Shape:
        """Returns the shape that the source array must have."""
        piece = self.piece_shape(target)
        return piece if self.part is None else (piece[0] * self.part[1], *piece[1:])

    def read(self, array: np.ndarray, ours: Shape) -> np.ndarray:
        """Takes our piece out of one source array (a view where possible)."""
        if self.part is not None:
            k, n = self.part
            size = array.shape[0] // n
            array = array[k * size : (k + 1) * size]
        return LAYOUTS[self.layout][0](array).reshape(ours)

    def write(self, piece: np.ndarray, target: Shape) -> np.ndarray:
        """Turns our piece into the source's layout, before packing."""
        return LAYOUTS[self.layout][1](piece).reshape(self.piece_shape(target))


def norm(target: str, source: str) -> list[Leaf]:
    """Names a LayerNorm's scale and bias as torch does."""
    return [Leaf(f"{target}/scale", f"{source}.weight"), Leaf(f"{target}/bias", f"{source}.bias")]


def linear(target: str, source: str, *, bias: bool = True) -> list[Leaf]:
    """Names a linear map's kernel and bias as torch does."""
    rows = [Leaf(f"{target}/kernel", f"{source}.weight", "linear")]
    return rows + [Leaf(f"{target}/bias", f"{source}.bias")] if bias else rows


def packed(target: str, weight: str, bias: str, names: Iterable[str]) -> list[Leaf]:
    """Names linear maps that the source keeps stacked in one array, e.g. q, k and v."""
    names = tuple(names)
    rows = []
    for k, name in enumerate(names):
        part = (k, len(names))
        rows.append(Leaf(f"{target}/{name}/kernel", weight, "linear", part))
        rows.append(Leaf(f"{target}/{name}/bias", bias, part=part))
    return rows


def scalar(source: Mapping[str, Any], target: str, name: str) -> Leaf:
    """Names one number, which formats keep with shape () or (1,)."""
    return Leaf(target, name, shape=(1,) if getattr(source.get(name), "shape", ()) else None)


def flatten(params: Params) -> dict[str, Any]:
    """Turns nested mappings into one dict with names joined by "/", in sorted order."""
    flat: dict[str, Any] = {}

    def walk(node: Any, prefix: str) -> None:
        if isinstance(node, Mapping):
            for key in sorted(node):
                walk(node[key], f"{prefix}/{key}" if prefix else key)
        else:
            flat[prefix] = node

    walk(params, "")
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turns names joined by "/" into nested dicts."""
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *path, last = name.split("/")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def param_spec(config: CLIPConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Lists every parameter that a configuration needs, with its shape; nothing is allocated."""
    return dict(_param_spec(config))


@functools.lru_cache(maxsize=32)
def _param_spec(config: CLIPConfig) -> dict[str, jax.ShapeDtypeStruct]:
    # Tracing the model for it takes a tenth of a second, and one load asks more than once.
    tree = jax.eval_shape(lambda: init_params(CLIP(config), key=jax.random.key(0)))
    return flatten(tree)


def check_params(params: Params, spec: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Flattens parameters, and checks that they are those of a specification, name by name.

    Args:
        params: nested arrays.
        spec: anything with a shape, by flat name.
        what: where `params` come from, for the message.

    Raises:
        UserError: for the first name that is missing, left over or of another shape.
    """
    flat = flatten(params)
    for name in sorted(set(flat) | set(spec)):
        want = tuple(spec[name].shape) if name in spec else None
        got = tuple(flat[name].shape) if name in flat else None
        if want != got:
            raise expected(
                f"{what}: {name}",
                f"shape {want}" if want is not None else "no such parameter",
                "none" if got is None else f"{got}",
                "give config's own params",
            )
    return flat


def _allowed(name: str, allow: Iterable[str]) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in allow)


def convert(
    source: Mapping[str, Any],
    leaves: Iterable[Leaf],
    config: CLIPConfig | Mapping[str, Any],
    *,
    file: str,
    allow: Iterable[str] = (),
) -> tuple[dict[str, Any], Report]:
    """Reads a foreign format into our parameters, one leaf at a time.

    Args:
        source: arrays by name; lazy ones (anything with `shape`, `dtype` and `__array__`) are
            read only when their turn comes.
        leaves: the format's table.
        config: what the result must fit: a CLIP's, or anything with a shape by flat name.
        file: the file's name, for messages.
        allow: regexes (full match) of source names that may be there without being used.

    Returns:
        Nested float32 numpy parameters, and the report.

    Raises:
        UserError: for any missing, unexpected or wrongly shaped name; it lists them.
    """
    spec = param_spec(config) if isinstance(config, CLIPConfig) else config
    rows = {leaf.target: leaf for leaf in leaves}
    if set(rows) != set(spec):
        raise AssertionError(f"table and model differ in {sorted(set(rows) ^ set(spec))}")
    report, used = Report(file=file), set()
    wanted: dict[str, list[tuple[str, int | None]]] = {}
    for target, leaf in rows.items():
        shape = spec[target].shape
        pieces: list[tuple[str, int | None]] = [(leaf.source, None)]
        if leaf.per_block:
            pieces = [(leaf.source.format(i=i), i) for i in range(shape[0])]
        wanted[target] = pieces
        for name, _ in pieces:
            used.add(name)
            report.check(name, source.get(name), leaf.source_shape(shape))
    for name in sorted(set(source) - used):
        report.extra(name, source[name], allowed=_allowed(name, allow))
    report.raise_if_wrong()

    flat = {}
    for target in sorted(rows):
        leaf, shape = rows[target], spec[target].shape
        out = np.empty(shape, np.float32)
        for name, index in wanted[target]:
            at = ... if index is None else index
            ours = shape if index is None else shape[1:]
            out[at] = leaf.read(np.asarray(source[name]), ours)
        report.took(target, source[wanted[target][0][0]], reshaped=leaf.shape is not None)
        flat[target] = out
    report.parameters = sum(x.size for x in flat.values())
    return unflatten(flat), report


def export(
    params: Params, leaves: Iterable[Leaf], dtype: Any = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields a foreign format's names and arrays from our parameters, one at a time.

    Args:
        params: our nested parameters.
        leaves: the format's table.
        dtype: to cast to; None keeps each leaf's own.
    """
    flat = flatten(params)
    groups: dict[str, list[Leaf]] = {}
    for leaf in leaves:
        groups.setdefault(leaf.source, []).append(leaf)
    for source, group in groups.items():
        group = sorted(group, key=lambda leaf: leaf.part or (0, 1))
        shape = tuple(flat[group[0].target].shape)
        for index in range(shape[0]) if group[0].per_block else (None,):
            pieces = []
            for leaf in group:
                whole = np.asarray(flat[leaf.target])
                piece = whole if index is None else whole[index]
                pieces.append(leaf.write(piece, shape))
            array = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
            array = np.ascontiguousarray(array) if array.ndim else array
            yield source.format(i=index), array if dtype is None else array.astype(dtype)

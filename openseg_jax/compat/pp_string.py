"""big_vision's preprocessing strings on NumPy arrays, without big_vision and without TensorFlow.

`from_bv_string("decode|resize(224)|flip_lr|value_range(-1, 1)")` reads the string by big_vision's
grammar and returns one function of a dict. Names, arguments, defaults and results are big_vision's;
what is random draws from the generator that is given.
"""

from __future__ import annotations

import ast
import inspect
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from openseg_jax.compat.joint import JOINT, Data, Op, two_sides
from openseg_jax.errors import UserError, expected, unknown_name
from openseg_jax.inputs.crops import random_crop
from openseg_jax.ops.resize_tf import resize_tf, to_dtype

__all__ = ["OPS", "from_bv_string"]

# An operation on one array: the value that a key holds, and chance.
Change = Callable[[Any, np.random.Generator], Any]


def _decode(channels: int = 3, precise: bool = False) -> Change:
    """Decodes a file's bytes. Pillow's decoder is the precise one; TensorFlow's fast one differs
    by a few grey levels on JPEG."""
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if channels not in modes:
        raise expected("channels", "1, 3 or 4", repr(channels), "use 3")

    def change(data: Any, rng: np.random.Generator) -> np.ndarray:
        from PIL import Image

        try:
            raw = data.item() if isinstance(data, np.ndarray) else data
            with Image.open(io.BytesIO(raw)) as picture:
                image = np.asarray(picture.convert(modes[channels]))
        except Exception as error:  # Pillow raises many types for broken files
            raise UserError(
                f"decode: expected a picture's bytes, got {error}; leave it out"
            ) from error
        return image if image.ndim == 3 else image[..., None]

    return change


def _resize(size: Any, method: str = "bilinear", antialias: bool = False) -> Change:
    sides = two_sides(size)
    return lambda x, rng: to_dtype(resize_tf(x, sides, method, antialias=antialias), x.dtype)


def _by_factor(side: Callable[..., int], antialias: bool) -> Callable[..., Change]:
    """Makes `resize_small` or `resize_long`: `side` picks which side gets the size."""
    default = antialias

    def factory(size: int, method: str = "area", antialias: bool = default) -> Change:
        want = two_sides(size)[0]

        def change(x: Any, rng: np.random.Generator) -> np.ndarray:
            factor = np.float32(want) / np.float32(side(x.shape[:2]))
            rows, columns = (int(np.round(np.float32(n) * factor)) for n in x.shape[:2])
            return to_dtype(resize_tf(x, (rows, columns), method, antialias=antialias), x.dtype)

        return change

    return factory


def _inception_crop(
    size: Any = None,
    area_min: float = 5,
    area_max: float = 100,
    method: str = "bilinear",
    antialias: bool = False,
) -> Change:
    resize = None if size is None else _resize(size, method, antialias)

    def change(x: Any, rng: np.random.Generator) -> np.ndarray:
        scale = (area_min / 100, area_max / 100)
        box = random_crop(rng, x.shape[:2], scale=scale, ratio=(0.75, 1.33))
        part = x[box.top : box.top + box.height, box.left : box.left + box.width]
        return part if resize is None else resize(part, rng)

    return change


def _random_crop(crop_size: Any) -> Change:
    sides = two_sides(crop_size, "crop_size")

    def change(x: Any, rng: np.random.Generator) -> np.ndarray:
        _fits(x, sides)
        top, left = (int(rng.integers(n - m + 1)) for n, m in zip(x.shape, sides, strict=False))
        return x[top : top + sides[0], left : left + sides[1]]

    return change


def _central_crop(crop_size: Any = None) -> Change:
    def change(x: Any, rng: np.random.Generator) -> np.ndarray:
        sides = two_sides(crop_size, "crop_size") if crop_size else (min(x.shape[:2]),) * 2
        _fits(x, sides)
        top, left = ((n - m) // 2 for n, m in zip(x.shape, sides, strict=False))
        return x[top : top + sides[0], left : left + sides[1]]

    return change


def _fits(x: np.ndarray, sides: tuple[int, int]) -> None:
    if x.shape[0] < sides[0] or x.shape[1] < sides[1]:
        raise expected("crop_size", f"at most {x.shape[:2]}", f"{sides}", "resize first")


def _flip_lr() -> Change:
    return lambda x, rng: x[:, ::-1] if rng.random() < 0.5 else x


def _value_range(
    vmin: float = -1,
    vmax: float = 1,
    in_min: Any = 0,
    in_max: Any = 255.0,
    clip_values: bool = False,
) -> Change:
    low, high = np.float32(in_min), np.float32(in_max)

    def change(x: Any, rng: np.random.Generator) -> np.ndarray:
        out = (np.asarray(x, np.float32) - low) / (high - low)
        out = np.float32(vmin) + out * np.float32(vmax - vmin)
        return np.clip(out, vmin, vmax) if clip_values else out

    return change


def _standardized(
    mean: Sequence[float] = (0.485 * 255, 0.456 * 255, 0.406 * 255),
    std: Sequence[float] = (0.229 * 255, 0.224 * 255, 0.225 * 255),
) -> Change:
    centre, spread = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    return lambda x, rng: (np.asarray(x, np.float32) - centre) / spread


def _clip_value_range() -> Change:
    return _standardized(
        tuple(255 * x for x in (0.48145466, 0.4578275, 0.40821073)),
        tuple(255 * x for x in (0.26862954, 0.26130258, 0.27577711)),
    )


def _pad_to_shape(
    shape: Sequence[int | None], pad_value: float = 0, where: str = "after"
) -> Change:
    if where not in ("before", "after", "both"):
        unknown_name(str(where), ("before", "after", "both"), "where")

    def change(x: Any, rng: np.random.Generator) -> np.ndarray:
        x = np.asarray(x)
        lacks = [0 if want is None else want - n for want, n in zip(shape, x.shape, strict=False)]
        if len(shape) != x.ndim or min(lacks, default=0) < 0:
            raise expected("pad_to_shape", f"what fits {tuple(shape)}", f"{x.shape}", "crop first")
        ahead = [{"before": n, "after": 0, "both": n // 2}[where] for n in lacks]
        pads = [(a, n - a) for a, n in zip(ahead, lacks, strict=True)]
        return np.pad(x, pads, constant_values=np.asarray(pad_value, x.dtype))

    return change


def _keyed(change_of: Callable[..., Change]) -> Callable[..., Op]:
    """Adds big_vision's `key`, `inkey` and `outkey`, by default all "image"."""

    def factory(
        *args: Any, key: str | None = None, inkey: str = "image", outkey: str = "image", **kw: Any
    ) -> Op:
        inspect.signature(change_of).bind(*args, **kw)
        change = change_of(*args, **kw)

        def op(data: Data, rng: np.random.Generator) -> Data:
            source = key or inkey
            if source not in data:
                known = ", ".join(sorted(data)) or "none"
                raise UserError(f"{source}: no such key; the example has {known}")
            return {**data, key or outkey: change(data[source], rng)}

        return op

    return factory


def _keep(*keys: str) -> Op:
    return lambda data, rng: {k: v for k, v in data.items() if k in keys}


def _drop(*keys: str) -> Op:
    return lambda data, rng: {k: v for k, v in data.items() if k not in keys}


def _copy(inkey: str, outkey: str) -> Op:
    return lambda data, rng: {**data, outkey: data[inkey]}


OPS: dict[str, Callable[..., Op]] = {
    "decode": _keyed(_decode),
    "resize": _keyed(_resize),
    "resize_small": _keyed(_by_factor(min, False)),
    "resize_long": _keyed(_by_factor(max, True)),
    "inception_crop": _keyed(_inception_crop),
    "random_crop": _keyed(_random_crop),
    "central_crop": _keyed(_central_crop),
    "flip_lr": _keyed(_flip_lr),
    "value_range": _keyed(_value_range),
    "vgg_value_range": _keyed(_standardized),
    "clip_value_range": _keyed(_clip_value_range),
    "pad_to_shape": _keyed(_pad_to_shape),
    "keep": _keep,
    "drop": _drop,
    "copy": _copy,
    **JOINT,
}


def from_bv_string(text: str) -> Callable[..., Data]:
    """Reads a preprocessing string of big_vision.

    Args:
        text: operations joined by "|", each a name or a call with literal arguments. A "|" within
            quotes is text (big_vision takes it for a separator).

    Returns:
        `function(data, rng=None)` of a dict of arrays (bytes for "decode"), which is not changed.
        Strings with something random in them need a `numpy.random.Generator`.

    Raises:
        UserError: for an operation that is not supported, with those that are; for wrong
            arguments; for what does not parse.
    """
    if not isinstance(text, str):
        raise expected("string", "operations joined by |", type(text).__name__, "give a string")
    ops = [_parse(part) for part in _split(text) if part.strip()]

    def run(data: Data, rng: np.random.Generator | None = None) -> Data:
        chance: Any = _NoChance() if rng is None else rng
        for op in ops:
            data = op(dict(data), chance)
        return data

    return run


class _NoChance:
    """Stands in for a generator that nobody gave."""

    def __getattr__(self, name: str) -> Any:
        raise UserError(
            "rng: expected a generator for what is random in this string, got none; give "
            "rng=numpy.random.default_rng(seed)"
        )


def _split(text: str) -> list[str]:
    parts, quote = [""], ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char == "|":
            parts.append("")
            continue
        parts[-1] += char
    return parts


def _parse(part: str) -> Op:
    text = part.strip()
    try:
        node = ast.parse(text, mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        if not isinstance(call.func, ast.Name):
            raise ValueError("no name")
        name = call.func.id
        args = [ast.literal_eval(arg) for arg in call.args]
        named = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg}
    except (SyntaxError, ValueError) as error:
        raise expected(
            "string", "name or name(literals)", repr(text[:60]), "e.g. resize(224, method='area')"
        ) from error
    if name not in OPS:
        unknown_name(name, OPS, "preprocessing operation")
    try:
        return OPS[name](*args, **named)
    except TypeError as error:
        raise UserError(
            f"{text[:60]}: wrong arguments ({error}); see big_vision's {name}"
        ) from error

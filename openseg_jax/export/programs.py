"""Tracing and serialising: `jax.export` with open sizes, for platforms that are not here.

Two programs can come of one function. What runs on CPUs is traced as for a CPU, with its loop over
attention heads; what runs elsewhere is traced for no machine in particular, with XLA's attention
and no kernel of a vendor's.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from openseg_jax.errors import UserError, unknown_name
from openseg_jax.export.calls import Call, Tower
from openseg_jax.models.clip import normalize
from openseg_jax.models.text import TextTransformer
from openseg_jax.ops.masks import to_label_map
from openseg_jax.ops.platform import planned_for
from openseg_jax.types import Array, Params
from openseg_jax.weights.tree import flatten, unflatten

__all__ = [
    "PLATFORMS", "Program", "check_platforms", "lengths_of", "segment_program", "text_program",
]  # fmt: skip

PLATFORMS = ("cpu", "cuda", "tpu")
# Custom calls that are not the work of one vendor's compiler: they check and compute open sizes.
_PORTABLE = re.compile(r"shape_assertion|stablehlo\..*")
# Rows of text are cut to these; see `text.classifier`.
_LENGTHS = (16, 32)


@dataclasses.dataclass(frozen=True)
class Program:
    """One function, serialised.

    Attributes:
        files: (platforms, bytes) pairs.
        params: the arrays that it takes, by the names in its first argument.
        inputs: name -> (dtype, shape) of its second argument; letters are open sizes.
        calling_convention: of `jax.export`.
    """

    files: tuple[tuple[tuple[str, ...], bytes], ...]
    params: dict[str, Any]
    inputs: dict[str, tuple[str, str]]
    calling_convention: int


def check_platforms(platforms: Sequence[str]) -> tuple[str, ...]:
    """Returns the platforms, each once.

    Raises:
        UserError: for none, an unknown one, or where `flatbuffers` is not installed.
    """
    if isinstance(platforms, str) or not platforms:
        raise UserError(f"platforms: expected some of {', '.join(PLATFORMS)}, got {platforms!r}")
    for name in platforms:
        if name == "gpu":
            raise UserError("platforms: expected cuda for NVIDIA's GPUs, got gpu; write cuda")
        if name not in PLATFORMS:
            unknown_name(name, PLATFORMS, "platform")
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError(
            "flatbuffers is not installed, which jax.export writes with; run: "
            "pip install 'openseg_jax[export]'"
        )
    return tuple(dict.fromkeys(platforms))


def segment_program(call: Call, size: tuple[int, int], platforms: Sequence[str]) -> Program:
    """Exports a method's segmentation: (params, inputs) → labels, scores and what is alive.

    Args:
        call: of the method.
        size: (H, W) of the canvas, pixels.
        platforms: some of `PLATFORMS`.
    """
    height, width = size
    inputs = {"image": ("uint8", f"b, {height}, {width}, 3")}
    inputs |= {f"text.{name}": about for name, about in call.arrays.items()}
    if call.valid:
        inputs["valid"] = ("bool", f"b, {height}, {width}")
    if call.masks:
        inputs["masks"] = ("float32", f"b, 8*m, {height}, {width}")
    limits = [f"k >= {call.least // 8}"] if call.least > 8 else []
    limits += [f"k <= {call.most // 8}"] if call.most else []
    arrays, params, rebuild = _shared(call.params)
    threshold = getattr(call.segmenter, "threshold", 0.5)

    def segment(params: dict[str, Array], inputs: dict[str, Array]) -> dict[str, Array]:
        tree = rebuild(params)
        if call.masks:
            tree["source"] = {"masks": inputs["masks"]}
        text = call.text({name: inputs[f"text.{name}"] for name in call.arrays})
        masks = call.segmenter.segment(tree, inputs["image"], text, inputs.get("valid"))
        labels = to_label_map(masks, threshold=threshold)
        scores, alive = masks.scores, masks.valid
        assert scores is not None
        if scores.ndim == 3:
            # A class lives by its pixels and has its best mask's score, as in `rounds.compete`.
            best = jnp.where(alive[..., None], scores, 0).max(axis=1)
            rows = jnp.arange(labels.shape[0])[:, None]
            found = jnp.zeros((labels.shape[0], best.shape[1] + 1), bool)
            alive = found.at[rows, labels.reshape(labels.shape[0], -1)].set(True)[:, 1:]
            scores = jnp.where(alive, best, 0)
        return {"labels": labels, "scores": scores.astype(jnp.float32), "alive": alive}

    return _program(segment, arrays, params, inputs, limits, platforms)


def lengths_of(tower: Tower) -> list[int]:
    """Lists the shorter rows that a text tower may be given: where the end of text is pooled."""
    config = tower.clip.config.text
    cut = config.causal and config.pool == "argmax"
    return [n for n in _LENGTHS if n < config.context] if cut else []


def text_program(tower: Tower, platforms: Sequence[str]) -> Program:
    """Exports a text tower: (params, {"ids": Int32[n l]}) → {"vectors": Float32[n E]}."""
    clip = tower.clip
    model = TextTransformer(clip.config.text, clip.config.embed_dim, jnp.dtype("float32"))
    # LiT reads shorter rows than its table of positions has.
    context = clip.tokenizer.context
    open_length = bool(lengths_of(tower))
    inputs = {"ids": ("int32", "n, l" if open_length else f"n, {context}")}
    limits = [f"l <= {context}"] if open_length else []
    arrays, params, rebuild = _shared(clip.params["text"])

    def encode(params: dict[str, Array], inputs: dict[str, Array]) -> dict[str, Array]:
        out: Any = model.apply({"params": rebuild(params)}, inputs["ids"])
        return {"vectors": normalize(out) if tower.unit else out.astype(jnp.float32)}

    return _program(encode, arrays, params, inputs, limits, platforms)


def _shared(
    tree: Params,
) -> tuple[dict[str, Any], dict[str, Any], Callable[[Mapping[str, Array]], dict[str, Any]]]:
    """Lists a tree's arrays, each once, and says how to rebuild the tree from them."""
    first: dict[int, str] = {}
    flat = flatten(tree)
    names = {path: first.setdefault(id(leaf), path) for path, leaf in flat.items()}
    arrays = {path: leaf for path, leaf in flat.items() if names[path] == path}
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in arrays.items()}

    def rebuild(params: Mapping[str, Array]) -> dict[str, Any]:
        return unflatten({path: params[name] for path, name in names.items()})

    return arrays, shapes, rebuild


def _program(
    function: Callable[..., Any],
    arrays: dict[str, Any],
    params: dict[str, Any],
    inputs: dict[str, tuple[str, str]],
    limits: Sequence[str],
    platforms: Sequence[str],
) -> Program:
    from jax import export

    files, convention = [], 0
    groups = [("cpu", [p for p in platforms if p == "cpu"])]
    groups.append(("portable", [p for p in platforms if p != "cpu"]))
    for target, names in groups:
        if not names:
            continue
        scope = export.SymbolicScope(limits)
        shapes = {
            name: jax.ShapeDtypeStruct(export.symbolic_shape(dims, scope=scope), dtype)
            for name, (dtype, dims) in inputs.items()
        }
        with planned_for(target, 1):
            exported = export.export(jax.jit(function), platforms=names)(params, shapes)
        _check_portable(exported.mlir_module())
        files.append((tuple(names), bytes(exported.serialize())))
        convention = exported.calling_convention_version
    return Program(tuple(files), arrays, inputs, convention)


def _check_portable(module: str) -> None:
    """Raises UserError for a program that would call into one machine's or vendor's code."""
    calls = set(re.findall(r"custom_call @([\w.$]+)", module))
    foreign = sorted(name for name in calls if not _PORTABLE.fullmatch(name))
    if foreign:
        raise UserError(
            f"export: the program calls {', '.join(foreign)}, which other machines do not have; "
            "leave out what draws masks on the host"
        )

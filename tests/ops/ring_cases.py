"""Losses on 8 devices that the CPU pretends to be: `python -m tests.ops.ring_cases`.

Prints a JSON object of measurements; `test_ring.py` judges them. One process serves all cases,
for starting it takes longer than most of them.
"""

from __future__ import annotations

import functools
import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from openseg_jax.ops.losses import same_caption, sigmoid_contrastive, softmax_contrastive
from openseg_jax.ops.ring import Ring
from openseg_jax.ops.ring_sigmoid import ring_sigmoid
from openseg_jax.ops.ring_softmax import ring_softmax
from openseg_jax.plan.cost import cost_of
from openseg_jax.plan.hlo import parse

BATCH, WIDTH, AXES = 24, 7, ("data", "fsdp")
SHAPES = [(1, 1, 1), (2, 1, 1), (2, 2, 1), (4, 2, 1), (1, 8, 1), (2, 2, 2)]
LOSSES = ("softmax", "sigmoid")
PARTS = ("image", "text", "scale", "bias")


def make_mesh(shape: tuple[int, int, int]) -> Mesh:
    """Lays the first devices out."""
    devices = jax.devices()[: int(np.prod(shape))]
    return jax.make_mesh(
        shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3, devices=devices
    )


def example(dtype: Any) -> tuple[Any, ...]:
    """Draws rows whose captions repeat across devices; some texts are their image's."""
    rng = np.random.default_rng(3)
    image, text = rng.normal(size=(2, BATCH, WIDTH))
    text[::3] += 0.7 * image[::3]
    caption = rng.integers(0, 15, BATCH).astype(np.int32)
    text = text[caption] if dtype == "equal-texts" else text
    real = jnp.float32 if dtype == "equal-texts" else dtype
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (image, text)]
    scalars = jnp.asarray(14.3, jnp.float32), jnp.asarray(-6.1, jnp.float32)
    if real == jnp.float64:
        scalars = jnp.asarray(14.3, real), jnp.asarray(-6.1, real)
    return *(jnp.asarray(x, real) for x in unit), *scalars, jnp.asarray(caption)


def plain(name: str, image: Any, text: Any, scale: Any, bias: Any, caption: Any) -> Any:
    """Computes the loss of `ops.losses` and the hits."""
    positive = same_caption(caption)
    best = jnp.argmax(image @ text.T, axis=1)
    hits = jnp.take_along_axis(positive, best[:, None], axis=1).sum()
    if name == "sigmoid":
        return sigmoid_contrastive(image, text, scale, bias, positive), hits
    return softmax_contrastive(image, text, scale, positive), hits


def ringed(name: str, ring: Ring, image: Any, text: Any, scale: Any, bias: Any, caption: Any):
    """Computes the same with the ring."""
    if name == "sigmoid":
        return ring_sigmoid(image, text, scale, bias, caption, ring)
    return ring_softmax(image, text, scale, caption, ring)


def numbers(loss: Any, dtype: Any) -> dict[str, Any]:
    """Runs value and gradients."""
    *args, caption = example(dtype)
    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))
    (value, hits), grads = run(*args, caption)
    kinds = [str(g.dtype) for g in grads]
    return {"loss": value, "hits": hits, "kinds": kinds, **dict(zip(PARTS, grads, strict=True))}


@functools.cache
def wanted(name: str, dtype: Any) -> dict[str, Any]:
    """Runs the plain form."""
    return numbers(functools.partial(plain, name), dtype)


def error(got: Any, want: Any) -> float:
    """Measures the largest difference over the largest number."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-30))


def compare(got: dict[str, Any], want: dict[str, Any]) -> dict[str, Any]:
    """Measures every difference of two runs."""
    out: dict[str, Any] = {k: error(got[k], want[k]) for k in ("loss", *PARTS)}
    return {**out, "hits": [int(got["hits"]), int(want["hits"])], "kinds": got["kinds"]}


def case(name: str, shape: tuple[int, int, int], block: int, dtype: Any) -> dict[str, Any]:
    """Compares ring and plain form, in the plain form's best arithmetic."""
    got = numbers(functools.partial(ringed, name, Ring(make_mesh(shape), AXES, block)), dtype)
    best = jnp.float64 if dtype in (jnp.float32, jnp.float64) else dtype
    return compare(got, wanted(name, best))


def one_hop_missing(self: Ring, visit: Any, kept: Any, seen: Any, sums: Any, add: Any) -> Any:
    """Forgets the last device of the tour."""
    kept, own = visit(kept, seen, sums)
    for _ in range(self.size - 2):
        seen = self.hop(seen)
        kept, sums = visit(kept, seen, sums)
        sums = self.hop(sums)
    return kept, add(own, self.hop(sums))


def own_only(self: Ring, visit: Any, kept: Any, seen: Any, sums: Any, add: Any) -> Any:
    """Takes negatives from the own device alone, as a data-parallel loss does by mistake."""
    del self, add
    return visit(kept, seen, sums)


def twins(name: str) -> dict[str, Any]:
    """Measures how far wrong tours miss."""
    out = {}
    for wrong in (one_hop_missing, own_only):
        with mock.patch.object(Ring, "tour", wrong):
            out[wrong.__name__] = case(name, (2, 2, 1), 64, jnp.float32)
    return out


def larger(name: str) -> float:
    """Compares gradients of a model around the loss."""
    image, text, _, _, caption = example(jnp.float64)
    weights = {"w": jnp.eye(WIDTH) + 0.1, "scale": jnp.asarray(2.0), "bias": jnp.asarray(-3.0)}

    def model(loss: Any, weights: Any) -> Any:
        moved = image @ weights["w"]
        moved = moved / jnp.linalg.norm(moved, axis=1, keepdims=True)
        scale = jnp.exp(weights["scale"])
        # The loss is used twice, and not as it is: its cotangents differ from 1.
        first, _ = loss(moved, text, scale, weights["bias"], caption)
        second, _ = loss(image, text @ weights["w"].T, scale, weights["bias"], caption)
        return jnp.sin(first) + 0.3 * second + (moved**2).sum()

    ring = Ring(make_mesh((2, 2, 1)), AXES, 64)
    got, want = (
        jax.jit(jax.grad(functools.partial(model, functools.partial(f, *how))))(weights)
        for f, how in ((ringed, (name, ring)), (plain, (name,)))
    )
    return max(error(got[k], want[k]) for k in want)


def memory(name: str) -> dict[str, list[int]]:
    """Counts temporary bytes a device of value and gradients, at a batch and at twice as much.

    "sent" are the bytes that a device sends for the ring at the larger batch.
    """
    mesh = make_mesh((4, 2, 1))
    rows, one = NamedSharding(mesh, PartitionSpec(AXES)), NamedSharding(mesh, PartitionSpec())
    placed, out = (rows, rows, one, one, rows), {}
    for form, loss in (
        ("ring", functools.partial(ringed, name, Ring(mesh, AXES, 64))),
        ("plain", functools.partial(plain, name)),
    ):
        run = jax.jit(
            jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True), in_shardings=placed
        )
        out[form] = []
        for batch in (2048, 4096):
            pair = jax.ShapeDtypeStruct((batch, 16), jnp.float32)
            scalar = jax.ShapeDtypeStruct((), jnp.float32)
            caption = jax.ShapeDtypeStruct((batch,), jnp.int32)
            done = run.lower(pair, pair, scalar, scalar, caption).compile()
            out[form].append(done.memory_analysis().temp_size_in_bytes)
            if form == "ring":
                sent = cost_of(parse(done.as_text())).sent()
                out["sent"] = [int(sum(sent.values()))]
    return out


def cases(everything: bool) -> Iterator[tuple[str, tuple[int, int, int], int, Any]]:
    """Lists loss, mesh, block and dtype; 24 rows on 4 devices are tiles of 4 and 2 rows."""
    if everything:
        for name, shape in itertools.product(LOSSES, SHAPES):
            yield name, shape, 64, jnp.float32
            yield name, shape, 5, jnp.float64
        yield "sigmoid", (2, 2, 1), 4, "equal-texts"
        yield "sigmoid", (2, 2, 1), 64, jnp.bfloat16
        return
    yield "softmax", (4, 2, 1), 64, jnp.float32
    yield "softmax", (2, 2, 2), 4, jnp.float64
    yield "softmax", (2, 1, 1), 64, jnp.bfloat16
    yield "softmax", (2, 2, 1), 64, "equal-texts"
    yield "sigmoid", (1, 8, 1), 64, jnp.float32
    yield "sigmoid", (2, 2, 1), 4, jnp.float64


def main() -> None:
    """Runs the cases; `--all` every mesh with two dtypes, and every check of both losses."""
    jax.config.update("jax_enable_x64", True)
    out: dict[str, Any] = {"cases": {}}
    everything = "--all" in sys.argv
    for name, shape, block, dtype in cases(everything):
        label = dtype if isinstance(dtype, str) else jnp.dtype(dtype).name
        sized = f"{name} {'×'.join(map(str, shape))} block {block} {label}"
        out["cases"][sized] = case(name, shape, block, dtype)
    out["larger"] = {name: larger(name) for name in LOSSES}
    # The tour and the tiles are the same code for both losses.
    names = LOSSES if everything else LOSSES[:1]
    out["twins"] = {name: twins(name) for name in names}
    out["memory"] = {name: memory(name) for name in names}
    print(json.dumps(out))


if __name__ == "__main__":
    main()

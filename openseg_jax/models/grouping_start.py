"""A start for the group module that already groups: what a short training can build on.

From the published start, all weights drawn, the module needs the published 40,000 steps: its
centres are alike and its output map hides what the patches said. Here the same module, with the
same weights, begins as something simple: centres are k-means centroids of patch tokens, every patch
goes to the centroid that it resembles most, and a region is the mean of its patches, less some of
the mean of the whole picture: CLIP's late tokens all tell of the whole picture, and what a region
has of its own is the rest. All of it is a value of the module's own parameters, so nothing else
changes, and training goes on from there.

| part | begins as | so that |
|---|---|---|
| `key`, `value` | the identity | patches are compared and averaged as they are |
| `key_ln` | scale `SHARPNESS` / `FAINTNESS` | noise moves patches between centroids only |
| `center_embedding` | centroids of unit variance | |
| `cross` | even attention, value and output −1 | a centre becomes centroid less picture's mean |
| `cross_ln` | scale `FAINTNESS` | a region is its patches, and of its centre that share |
| `proj` | the identity, plus a constant | regions enter the next block as tokens do |

The picture's mean in a centre changes no assignment: it adds the same to all logits of a patch.

The output map can be the identity although it has two activations: with first-layer weights
[I, −I] and second-layer weights [I; −I], GELU(x) − GELU(−x) = x exactly; and QuickGELU(y) is y
within 1e-5 from y = 8 on, within 0.1 from y = 2 on. A constant over all channels is taken away by
every LayerNorm that follows, and the maximum over regions commutes with it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from openseg_jax.types import Array, Float, Int, Key, Params

__all__ = ["start_from_tokens"]

SHARPNESS = 2.0
"""Times D: logits of a patch that is its centre. The noise's standard deviation is 1.28."""
FAINTNESS = 0.5
"""How much of its centre a region holds at the start, beside all of its patches' mean."""
SHIFT = 3.0
"""The output map's constant, in standard deviations of a token. More would cost bfloat16 digits."""
_DRAWN = 0.1  # what is left of drawn weights that the start does not need
_ROUNDS = 25  # of Lloyd's algorithm
_RUNS = 8  # from other starting points
_EPS = 1e-5


def start_from_tokens(group: Params, tokens: Float[Array, "B L D"], key: Key) -> dict[str, Any]:
    """Returns the group module's parameters that gather tokens like these.

    Args:
        group: of a `models.grouping.GroupModule`, freshly drawn; any width, heads and centres.
        tokens: what enters the module, of some typical images; B·L at least the centres.
        key: for the choice of the first centroids.
    Returns:
        parameters of the same shapes, float32.
    """
    width = tokens.shape[-1]
    normed = _standard(tokens.astype(jnp.float32))
    heads, part = group["key"]["kernel"].shape[:2]
    same = jnp.broadcast_to(jnp.eye(part), (heads, part, part))
    return {
        **group,
        "center_embedding": _centroids(normed, group["center_embedding"].shape[0], key),
        "key": {"kernel": same},
        "key_ln": _scaled(group["key_ln"], SHARPNESS / FAINTNESS),
        "value": {"kernel": same},
        "cross": _less_the_mean(group["cross"], width),
        "cross_ln": _scaled(group["cross_ln"], FAINTNESS),
        "proj": _identity(group["proj"], width, tokens.astype(jnp.float32).std(axis=-1).mean()),
    }


def _standard(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    x = x - x.mean(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + _EPS)


def _scaled(norm: Params, factor: Any) -> dict[str, Array]:
    return {"scale": jnp.full_like(norm["scale"], factor), "bias": jnp.zeros_like(norm["bias"])}


def _shrunk(dense: Params) -> dict[str, Array]:
    return {**dense, "kernel": _DRAWN * dense["kernel"]}


def _less_the_mean(cross: Params, width: int) -> dict[str, Any]:
    """Makes the first cross block take the mean of all tokens off each centre, the others nothing.

    The blocks lie along the first axis of every leaf.
    """
    attn, mlp = cross["attn"], cross["mlp"]
    out = _shrunk(attn["out"])
    return {
        **cross,
        "attn": {
            "query": _shrunk(attn["query"]),
            "key": _shrunk(attn["key"]),
            "value": {**attn["value"], "kernel": attn["value"]["kernel"].at[0].set(jnp.eye(width))},
            "out": {**out, "kernel": out["kernel"].at[0].set(-jnp.eye(width))},
        },
        "mlp": {**mlp, "c_proj": _shrunk(mlp["c_proj"])},
    }


def _identity(proj: Params, width: int, size: Float[Array, ""]) -> dict[str, Any]:
    """Makes the output map return what enters it, scaled to the tokens' standard deviation."""
    eye, up, down = jnp.eye(width), proj["mlp"]["c_fc"], proj["mlp"]["c_proj"]
    kernel = _DRAWN * down["kernel"]
    return {
        "ln": _scaled(proj["ln"], size),
        "mlp": {
            "c_fc": {
                "kernel": up["kernel"].at[:, : 2 * width].set(jnp.hstack([eye, -eye])),
                "bias": jnp.zeros_like(up["bias"]),
            },
            "c_proj": {
                "kernel": kernel.at[: 2 * width].set(jnp.vstack([eye, -eye])),
                "bias": jnp.full_like(down["bias"], SHIFT * size),
            },
        },
    }


def _centroids(tokens: Float[Array, "B L D"], count: int, key: Key) -> Float[Array, "count D"]:
    """Runs k-means by cosine a few times; returns the tightest's centroids, of unit variance.

    One run depends much on where it starts, and all that is trained later depends on it.
    """
    points = tokens.reshape(-1, tokens.shape[-1])
    points = points / jnp.maximum(jnp.linalg.norm(points, axis=-1, keepdims=True), 1e-12)

    def run(key: Key) -> tuple[Float[Array, ""], Float[Array, "n D"]]:
        centers = jax.lax.fori_loop(0, _ROUNDS, lloyd, _spread(points, count, key))
        return (points @ centers.T).max(axis=-1).mean(), centers

    def lloyd(_: Int[Array, ""], centers: Float[Array, "n D"]) -> Float[Array, "n D"]:
        nearest = (points @ centers.T).argmax(axis=-1)
        total = jax.ops.segment_sum(points, nearest, count)
        size = jnp.linalg.norm(total, axis=-1, keepdims=True)
        # A centroid that lost all its points stays where it is.
        return jnp.where(size > 0, total / jnp.maximum(size, 1e-12), centers)

    closeness, found = jax.lax.map(run, jax.random.split(key, _RUNS))
    return _standard(found[closeness.argmax()])


def _spread(points: Float[Array, "P D"], count: int, key: Key) -> Float[Array, "count D"]:
    """Draws starting points far from one another: k-means++."""
    first, *others = jax.random.split(key, count)
    chosen = [points[jax.random.randint(first, (), 0, len(points))]]
    distance = jnp.full(len(points), jnp.inf)
    for step in others:
        distance = jnp.minimum(distance, jnp.square(points - chosen[-1]).sum(axis=-1))
        # Far points are likelier, by their squared distance.
        chosen.append(points[jax.random.categorical(step, jnp.log(distance + 1e-12))])
    return jnp.stack(chosen)

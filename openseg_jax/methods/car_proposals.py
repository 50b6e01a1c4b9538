"""Mask proposals: one image through the CAM's tower once, then a map for every text.

Source: car.md §3 (CLIP-ES inside CaR). The head is always "mean of the patch tokens after ln_post",
also for weights that pool otherwise (class token, attention head): Grad-CAM needs an output that
every patch contributes to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from openseg_jax.methods.car_config import CaRConfig
from openseg_jax.methods.car_geometry import Geometry, Plan
from openseg_jax.models.clip import normalize
from openseg_jax.models.layers import Block, block_params, run_stack
from openseg_jax.models.variants import CLIPConfig
from openseg_jax.models.vit import VisionTransformer
from openseg_jax.ops import boxes, cam
from openseg_jax.ops.resize_uint8 import resize_bytes
from openseg_jax.types import Array, Bool, Float, Params, UInt8

__all__ = ["Encoded", "Proposer", "chunked"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Encoded:
    """What the CAM needs of an image, independent of texts.

    Attributes:
        tokens: Float[N D] entering the last block. activations: Float[L D], ln_1 of its patches.
        q, k, v, attended: Float[N A d] inside it.
        feature: Float[E], unit length.
        transition: Float[L L].
        patches: Bool[N], patch tokens that exist.
        joint: Float[E D] or None: gradient weights of every joint axis, for vocabularies larger
            than E (their pullbacks are then combinations of these).
    """

    tokens: Float[Array, "N D"]
    activations: Float[Array, "L D"]
    q: Float[Array, "N A d"]
    k: Float[Array, "N A d"]
    v: Float[Array, "N A d"]
    attended: Float[Array, "N A d"]
    feature: Float[Array, " E"]
    transition: Float[Array, "L L"]
    patches: Bool[Array, " N"]
    joint: Float[Array, "E D"] | None = None


def chunked(f: Callable[[Any], Any], rows: Any, count: Array | int, chunk: int) -> Any:
    """Maps `f` over the leading axis, `chunk` rows at once, and stops after row `count`.

    The trip count is a run-time value: rows from `count` on, rounded up to a chunk, cost nothing.
    Their results are 0.

    Args:
        f: from a pytree of [chunk ...] to a pytree of [chunk ...].
        rows: pytree of [K ...].
        count: rows that matter, a number or an int32 scalar.
        chunk: static.
    """
    total = jax.tree.leaves(rows)[0].shape[0]
    chunk = min(chunk, total)
    padded = -(-total // chunk) * chunk
    grown = jax.tree.map(
        lambda x: jnp.pad(x, [(0, padded - total)] + [(0, 0)] * (x.ndim - 1)), rows
    )

    def part(i: Array) -> Any:
        return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, i * chunk, chunk), grown)

    shapes = jax.eval_shape(lambda: f(part(jnp.int32(0))))
    start = jax.tree.map(lambda s: jnp.zeros((padded, *s.shape[1:]), s.dtype), shapes)

    def body(i: Array, out: Any) -> Any:
        new = f(part(i))
        return jax.tree.map(
            lambda o, n: lax.dynamic_update_slice_in_dim(o, n, i * chunk, 0), out, new
        )

    trips = (jnp.minimum(jnp.asarray(count, jnp.int32), total) + chunk - 1) // chunk
    out = lax.fori_loop(0, trips, body, start)
    return jax.tree.map(lambda x: x[:total], out)


@dataclasses.dataclass(frozen=True)
class Proposer:
    """The CAM side of CaR for one architecture; all methods are pure.

    Attributes:
        clip: architecture of the CAM's weights.
        settings: of CaR.
        plan: static sizes.
        dtype: of the computation; softmax, norms and everything after the pullback are float32.
        padded: images may be smaller than the canvas.
        by_head: loop over attention heads, the better form on CPUs.
        text_chunk: texts pulled back at once.
    """

    clip: CLIPConfig
    settings: CaRConfig
    plan: Plan
    dtype: Any
    padded: bool
    by_head: bool
    text_chunk: int

    @property
    def tower(self) -> VisionTransformer:
        """The image tower."""
        return VisionTransformer(self.clip.vision, self.clip.embed_dim, self.dtype)

    @property
    def prefix(self) -> int:
        """Tokens before the patches."""
        return int(self.clip.vision.pool == "class")

    def pixels(
        self, image: UInt8[Array, "H W 3"], geometry: Geometry, mean: Any, std: Any
    ) -> Float[Array, "h w 3"]:
        """Resizes an image to whole patches (as Pillow does) and normalises it."""
        small = resize_bytes(image, geometry.cam).astype(jnp.float32) / 255
        return (small - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)

    def positions(self, params: Params, geometry: Geometry) -> Float[Array, "N D"]:
        """Resamples the table of positions to the image's own grid, within the canvas."""
        table = jnp.asarray(params["positional_embedding"], jnp.float32)
        head, square = table[: self.prefix], table[self.prefix :]
        square = square.reshape(self.plan.table, self.plan.table, -1)
        out = jnp.einsum(
            "hr,rcd,wc->hwd", geometry.rows, square, geometry.columns, precision="highest"
        )
        out = jnp.concatenate([head, out.reshape(-1, square.shape[-1])])
        return out.astype(jnp.float16) if self.settings.fp16_pos_embed else out

    def encode(
        self, params: Params, pixels: Float[Array, "h w 3"], geometry: Geometry, *, joint: bool
    ) -> Encoded:
        """Runs the tower once: all but the last block, then the pieces of the last.

        Args:
            params: of the image tower.
            pixels: from `pixels`.
            geometry: of this image.
            joint: also pull back all joint axes, see `Encoded`.
        """
        tower: Any = self.tower
        depth = self.clip.vision.depth
        positions = self.positions(params, geometry)
        x = tower.apply({"params": params}, pixels[None], positions=positions, method="embed")
        height, width = self.plan.grid
        patches = jnp.ones((height, width), bool)
        if self.padded:
            rows = jnp.arange(height)[:, None] < geometry.grid[0]
            patches = rows & (jnp.arange(width)[None] < geometry.grid[1])
        patches = jnp.concatenate([jnp.zeros(self.prefix, bool), patches.reshape(-1)])
        keys = patches | (jnp.arange(patches.shape[0]) < self.prefix) if self.padded else None
        mapped = min(self.settings.cam_layers, depth)
        block, stack = tower.block(), params["blocks"]
        mask = None if keys is None else keys[None, None, None]
        x = run_stack(block, stack, x, stop=depth - mapped, mask=mask)[0]

        def body(carry: tuple[Array, Array], p: Params) -> tuple[tuple[Array, Array], None]:
            x, total = carry
            _, (q, k, v) = self._inside(block, p, x)
            out, weights = cam.attend_with_mean_map(q, k, v, keys, by_head=self.by_head)
            return (self._finish(block, p, x, out), total + weights), None

        total = jnp.zeros((x.shape[0], x.shape[0]), jnp.float32)
        some = jax.tree.map(lambda leaf: leaf[depth - mapped : depth - 1], stack)
        (x, total), _ = lax.scan(body, (x, total), some)
        last = block_params(stack, -1)
        normed, (q, k, v) = self._inside(block, last, x)
        attended, weights = cam.attend_with_mean_map(q, k, v, keys, by_head=self.by_head)
        total = (total + weights) / mapped
        start = self.prefix
        encoded = Encoded(
            tokens=x,
            activations=normed[start:].astype(jnp.float32),
            q=q,
            k=k,
            v=v,
            attended=attended,
            feature=self._feature(params, x, patches, attended),
            transition=cam.transition(
                total[start:, start:], patches[start:] if self.padded else None
            ),
            patches=patches,
        )
        if joint:
            axes = jnp.eye(self.clip.embed_dim, dtype=jnp.float32)
            weights = self.pull_back(params, encoded, axes, axes.shape[0])
            encoded = dataclasses.replace(encoded, joint=weights)
        return encoded

    def _inside(self, block: Block, p: Params, x: Array) -> tuple[Array, tuple[Array, ...]]:
        a: Any = block.apply({"params": p}, x[None], method=Block.normed)
        qkv: Any = block.apply({"params": p}, a, method=Block.project_in)
        return a[0], tuple(part[0] for part in qkv)

    def _finish(self, block: Block, p: Params, x: Array, attended: Array) -> Array:
        out: Any = block.apply({"params": p}, x[None], attended[None], method=Block.finish)
        return out[0]

    def _feature(
        self, params: Params, tokens: Array, patches: Array, attended: Array
    ) -> Float[Array, " E"]:
        """Completes the network from the attended values of its last block to the unit feature."""
        tower: Any = self.tower
        x = self._finish(tower.block(), block_params(params["blocks"], -1), tokens, attended)
        x = tower.apply({"params": params}, x, method="post").astype(jnp.float32)
        x = jnp.where(patches[:, None], x, 0).sum(axis=0) / patches.sum()
        x = tower.apply({"params": params}, x.astype(self.dtype), method="project")
        return normalize(x)

    def pull_back(
        self,
        params: Params,
        encoded: Encoded,
        cotangents: Float[Array, "K E"],
        count: Array | int,
    ) -> Float[Array, "K D"]:
        """Pulls cotangents of the unit feature back to ln_1's output, averaged over patches.

        Args:
            params: of the image tower.
            encoded: from `encode`.
            cotangents: one row a text; rows from `count` on are skipped.
        """
        p = block_params(params["blocks"], -1)
        # Cotangents need only the linear map at this point: one forward pass for all chunks.
        _, tail = jax.vjp(
            lambda a: self._feature(params, encoded.tokens, encoded.patches, a), encoded.attended
        )

        def rows(c: Float[Array, "K E"]) -> Float[Array, "K D"]:
            back = jax.vmap(lambda row: tail(row)[0])(c)
            grads = cam.patch_mean_gradients(
                encoded.q, encoded.k, encoded.v, back,
                prefix=self.prefix, patches=encoded.patches, by_head=self.by_head,
            )  # fmt: skip
            out = jnp.zeros((c.shape[0], encoded.tokens.shape[-1]), jnp.float32)
            for name, g in zip(("query", "key", "value"), grads, strict=True):
                kernel = jnp.asarray(p["attn"][name]["kernel"], jnp.float32)
                out = out + jnp.dot(g.reshape(c.shape[0], -1), kernel.T, precision="highest")
            return out

        return chunked(rows, cotangents, count, self.text_chunk)

    def logits(
        self, scale: Float[Array, ""], encoded: Encoded, vectors: Float[Array, "C E"]
    ) -> Float[Array, " C"]:
        """Compares the image with texts: scale × cosine, float32."""
        return scale * jnp.dot(vectors, encoded.feature, precision=lax.Precision.HIGHEST)

    def maps(
        self,
        params: Params,
        scale: Float[Array, ""],
        encoded: Encoded,
        texts: Float[Array, "K E"],
        background: Float[Array, "G E"],
        alive: Bool[Array, " K"],
        count: Array | int,
    ) -> Float[Array, "K L"]:
        """Computes the activation map of each alive text, in [0, 1], before refinement.

        Args:
            params: of the image tower. scale: exp of the weights' logit scale.
            texts: the competing texts, alive ones first. background: see `CarText`.
            alive: rows of `texts` that exist; `count` of them.
        """
        total, extra = texts.shape[0], background.shape[0]
        vectors = jnp.concatenate([texts, background])
        logits = self.logits(scale, encoded, vectors)
        if self.settings.competition == "alone":
            rivals = jnp.eye(total, dtype=bool)
        else:
            rivals = jnp.broadcast_to(alive, (total, total))
        rivals = rivals & alive[:, None]
        present = jnp.any(background != 0, axis=-1)
        others = jnp.broadcast_to(present, (total, extra))
        admitted = jnp.concatenate([rivals, others], axis=1)

        def draw(admitted: Bool[Array, "K C"]) -> Float[Array, "K L"]:
            c, _ = cam.rival_cotangents(logits, vectors, admitted)
            if self.settings.lone_text == "logit":
                lone = admitted.sum(axis=1) == 1
                c = jnp.where((lone & alive)[:, None], texts, c)
            # Unit length only guards the range of bfloat16; min-max removes any factor.
            c = normalize(c)
            if encoded.joint is not None:
                weights = jnp.dot(c, encoded.joint, precision=lax.Precision.HIGHEST)
            else:
                weights = self.pull_back(params, encoded, c, count)
            valid = encoded.patches[self.prefix :] if self.padded else None
            return cam.activation_maps(encoded.activations, weights, valid)

        alone = jnp.concatenate([rivals, jnp.zeros((total, extra), bool)], axis=1)

        # An empty map is drawn again without the backgrounds: a loop of at most two rounds, so
        # that the pullback is compiled once and the second round is paid for only when needed.
        def again(state: tuple[Array, Array, Array]) -> Array:
            _, done, empty = state
            return (done == 0) | ((done == 1) & empty.any() & present.any())

        def redraw(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            maps, done, empty = state
            new = draw(jnp.where(done == 0, admitted, alone))
            maps = jnp.where(((done == 0) | empty)[:, None], new, maps)
            return maps, done + 1, alive & (maps.max(axis=1) == 0)

        blank = jnp.zeros((total, encoded.activations.shape[0]), jnp.float32)
        return lax.while_loop(again, redraw, (blank, jnp.int32(0), alive))[0]

    def refine(
        self, encoded: Encoded, maps: Float[Array, "K L"], geometry: Geometry, table: Array
    ) -> tuple[Float[Array, "K L"], Bool[Array, "K L"]]:
        """Spreads maps along attention from inside their boxes; returns both, not stretched.

        Args:
            table: `ops.boxes.threshold_table` of λ.
        """
        height, width = self.plan.grid
        size = (geometry.grid[0], geometry.grid[1]) if self.padded else None
        inside = boxes.box_masks(
            maps.reshape(-1, height, width), table, size=size,
            border_quirk=self.settings.box_border_quirk,
        ).reshape(maps.shape)  # fmt: skip
        return cam.refine(encoded.transition, maps, inside), inside

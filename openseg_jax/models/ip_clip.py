"""IP-CLIP: one image and many mask proposals in one pass of CLIP's own image tower.

Up to block `start` the image is encoded as ever. There the class token is copied, one copy a mask,
and from then on copy i sees itself and the patches of mask i. Patches see all patches and no class
token. This form is "decoupled": patches run as ordinary attention over L tokens, class tokens
look at them through `ops.ip_attention`, and the last block computes of the patches no more than
keys and values. It equals the published attention over N + L tokens with its block mask.

The functions take a bound `VisionTransformer`: call them inside `module.apply(…, method=…)`. No
parameter is new. Source: maft.md §1.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from openseg_jax.errors import UserError, check_shape
from openseg_jax.models.layers import Block, loop_blocks
from openseg_jax.models.remat import recomputed
from openseg_jax.models.vit import VisionTransformer
from openseg_jax.ops.attention import attention
from openseg_jax.ops.ip_attention import ip_attention
from openseg_jax.types import Array, Bool, Float, Params

__all__ = [
    "POSITIONS",
    "START",
    "attention_to_masks",
    "default_size",
    "default_start",
    "ip_encode",
    "masked_blocks",
    "masked_tail",
    "plain_tail",
    "split_trunk",
]

START = 8
"""First masked block of the published models, ViT-B (of 12) and ViT-L (of 24) alike."""

POSITIONS = "bicubic_align_corners"
"""How MAFT resamples positions, see `ops.posembed.CONVENTIONS`; it fine-tuned with this one."""


def default_start(depth: int) -> int:
    """Returns the first masked block for a tower of `depth` blocks: 8, or two thirds if smaller."""
    return START if depth > START else depth * 2 // 3


def default_size(image_size: int) -> int:
    """Returns the side of the input, pixels: 480 for a CLIP, a tiny tower's own size for others.

    Args:
        image_size: of the pretraining; no CLIP that was released saw less than 224 pixels.
    """
    return 480 if image_size >= 224 else image_size


def split_trunk(
    visual: VisionTransformer,
    image: Float[Array, "B H W 3"],
    *,
    start: int,
    convention: str | None = POSITIONS,
) -> Float[Array, "B 1+L D"]:
    """Runs the blocks before `start`, which know nothing of masks.

    Args:
        visual: the bound tower.
        image: normalised pixels of any size; the grid need not be square.
        start: first masked block, 0 to depth − 1.
        convention: how positions are resampled; None takes the weights' own.

    Returns:
        The class token and the patches as they enter block `start`.

    Raises:
        UserError: for a tower without a class token, or a `start` that it does not have.
    """
    _check(visual, start)
    tokens = visual.embed(image, convention=convention)
    return visual.run(tokens, 0, start) if start else tokens


def masked_blocks(
    visual: VisionTransformer,
    tokens: Float[Array, "B 1+L D"],
    token_masks: Bool[Array, "B N L"],
    *,
    start: int,
    stop: int,
) -> Float[Array, "B N+L D"]:
    """Runs blocks `start` to `stop` (exclusive) with one class token a mask, patches included.

    Args:
        visual: the bound tower.
        tokens: from `split_trunk` with the same `start`.
        token_masks: see `masked_tail`.
        start, stop: static block numbers.

    Returns:
        N class tokens, then L patches.
    """
    _check(visual, start)
    count = token_masks.shape[1]
    check_shape(token_masks, f"{tokens.shape[0]} N {tokens.shape[1] - 1}", "token_masks")
    copies = jnp.broadcast_to(tokens[:, :1], (tokens.shape[0], count, tokens.shape[2]))
    x = jnp.concatenate([copies, tokens[:, 1:]], axis=1)
    block = visual.block()

    def body(x: Array, params: Params) -> Any:
        q, k, v = _project(block, params, x)
        (q, patch_q), (k, patch_k), (v, patch_v) = (
            jnp.split(y, [count], axis=1) for y in (q, k, v)
        )
        out = ip_attention(q, k, v, patch_k, patch_v, token_masks, backend=visual.backend)
        patches = attention(patch_q, patch_k, patch_v, backend=visual.backend)
        return _finish(block, params, x, jnp.concatenate([out, patches], axis=1))

    if stop <= start:
        return x
    return loop_blocks(
        body, visual.blocks, x, start=start, stop=stop, scan=visual.scan, remat=visual.remat
    )


def attention_to_masks(
    visual: VisionTransformer,
    tokens: Float[Array, "B 1+L D"],
    token_masks: Bool[Array, "B N L"],
    *,
    start: int,
) -> Float[Array, "B N A"]:
    """Computes how much of its attention a mask's class token gives the mask in block `start`.

    The rest goes to the class token itself: 0 for an empty mask.

    Args:
        visual, tokens, token_masks, start: see `masked_tail`.
    """
    _check(visual, start)
    block, params = visual.block(), visual.block_params(start)
    q, k, _ = _project(block, params, tokens)
    q, own, patches = (x.astype(jnp.float32) for x in (q[:, 0], k[:, 0], k[:, 1:]))
    scale = q.shape[-1] ** -0.5
    alone = (q * own).sum(-1)[:, None] * scale
    logits = jnp.einsum("bad,blad->bla", q, patches)[:, None] * scale
    # Both sums are taken relative to the greatest logit, so that neither overflows.
    inside = jnp.where(token_masks[..., None], logits, -jnp.inf)
    top = jnp.maximum(inside.max(axis=2), alone)
    seen = jnp.exp(inside - top[:, :, None]).sum(axis=2)
    return seen / (seen + jnp.exp(alone - top))


def masked_tail(
    visual: VisionTransformer,
    tokens: Float[Array, "B 1+L D"],
    token_masks: Bool[Array, "B N L"],
    *,
    start: int,
) -> Float[Array, "B N E"]:
    """Encodes every mask from the tokens that enter block `start`.

    Args:
        visual: the bound tower.
        tokens: from `split_trunk` with the same `start`.
        token_masks: which patches each mask holds, see `ops.token_masks`. Any N; an empty mask
            sees nothing but its own class token, and still gets an embedding.
        start: first masked block.

    Returns:
        After the final LayerNorm and the projection, not scaled to unit length.
    """
    last = visual.config.depth - 1
    x = masked_blocks(visual, tokens, token_masks, start=start, stop=last)
    count, block = token_masks.shape[1], visual.block()

    def final(x: Array, masks: Array, params: Params) -> Array:
        # Of the patches only keys and values count here; their queries are never computed.
        q, k, v = _project(block, params, x[:, :count])
        _, patch_k, patch_v = _project(block, params, x[:, count:])
        out = ip_attention(q, k, v, patch_k, patch_v, masks, backend=visual.backend)
        return _finish(block, params, x[:, :count], out)

    final = recomputed(final, visual.remat)
    out = final(x, token_masks, visual.block_params(last))
    return visual.project(visual.post(out))


def plain_tail(
    visual: VisionTransformer, tokens: Float[Array, "B 1+L D"], *, start: int
) -> Float[Array, "B E"]:
    """Finishes plain CLIP from the tokens that enter block `start`, as if there were no masks.

    Returns:
        The class token's embedding, not scaled to unit length; equal to the tower's own output.
        The last block computes of the patches no more than keys and values.
    """
    _check(visual, start)
    last = visual.config.depth - 1
    x = visual.run(tokens, start, last) if last > start else tokens
    block = visual.block()

    def final(x: Array, params: Params) -> Array:
        q, _, _ = _project(block, params, x[:, :1])
        _, k, v = _project(block, params, x)
        # One query a head: the batched form is a plain product already.
        out = attention(q, k, v, backend="xla")
        return _finish(block, params, x[:, :1], out)

    final = recomputed(final, visual.remat)
    return visual.project(visual.post(final(x, visual.block_params(last))[:, 0]))


def ip_encode(
    visual: VisionTransformer,
    image: Float[Array, "B H W 3"],
    token_masks: Bool[Array, "B N L"],
    *,
    start: int,
    convention: str | None = POSITIONS,
) -> Float[Array, "B N E"]:
    """Encodes one image and N masks of its patches in one pass.

    Args:
        visual: the bound tower.
        image: normalised pixels.
        token_masks: see `masked_tail`; L must be the image's own grid.
        start: first masked block, see `default_start`.
        convention: how positions are resampled; None takes the weights' own.

    Returns:
        One embedding a mask, not scaled to unit length.
    """
    tokens = split_trunk(visual, image, start=start, convention=convention)
    return masked_tail(visual, tokens, token_masks, start=start)


def _check(visual: VisionTransformer, start: int) -> None:
    if visual.config.pool != "class":
        raise UserError(
            f"model: expected an image tower with a class token, got one that pools by "
            f"{visual.config.pool!r}; MAFT copies the class token, so use a CLIP, not a SigLIP"
        )
    if not 0 <= start < visual.config.depth:
        raise UserError(
            f"start: expected a block from 0 to {visual.config.depth - 1}, got {start}; "
            f"this tower's default is {default_start(visual.config.depth)}"
        )


def _project(block: Block, params: Params, x: Float[Array, "B N D"]) -> tuple[Any, Any, Any]:
    normed = block.apply({"params": params}, x, method=Block.normed)
    return block.apply({"params": params}, normed, method=Block.project_in)  # type: ignore


def _finish(block: Block, params: Params, x: Array, attended: Array) -> Any:
    return block.apply({"params": params}, x, attended, method=Block.finish)

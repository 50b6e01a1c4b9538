"""What the last block of an image tower does where patches, not images, are to meet texts.

CLIP learns to place one vector an image beside texts: the class token, or what is pooled. The last
block's attention gathers the whole picture into every token, so patches lose their place. Papers
that segment with a frozen CLIP change that block and nothing else:

| name | attention of the last block | residual | FFN | source |
|---|---|---|---|---|
| `plain` | softmax(q kᵀ/√d) v | yes | yes | CLIP as trained (Radford et al., ICML 2021) |
| `maskclip` | v: each token sees itself alone | yes | yes | Zhou et al., ECCV 2022, its ViT code |
| `sclip` | softmax(q qᵀ/√d) v + softmax(k kᵀ/√d) v | yes | yes | Wang et al., ECCV 2024 |
| `clearclip` | softmax(q qᵀ/√d) v | no | no | Lan et al., ECCV 2024 |
| `naclip` | softmax(k kᵀ/√d + G) v | no | no | Hajimiri et al., WACV 2025, "reduced" |

The output map of the attention, the final LayerNorm and the projection stay in all of them. G is
`neighbourhood`. MaskCLIP's paper speaks of the attention alone; its published ViT adds the residual
and runs the FFN on the values, and ClearCLIP's comparison runs it without both: `residual=False,
feed_forward=False` of the method `clip_dense`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp

from openseg_jax.types import Array, Float

__all__ = ["LAST_BLOCKS", "LastBlock", "neighbourhood"]


@dataclasses.dataclass(frozen=True)
class LastBlock:
    """One row of the module's table; hashable.

    Attributes:
        attention: pairs of "q" and "k", each a softmax over its products; their results are added.
            () lets every token keep its own value.
        residual: add the attention to the tokens that came in.
        feed_forward: run the block's MLP, with its own residual.
        neighbours: add `neighbourhood` to the logits.
    """

    attention: tuple[tuple[str, str], ...] = (("q", "k"),)
    residual: bool = True
    feed_forward: bool = True
    neighbours: bool = False


LAST_BLOCKS: Mapping[str, LastBlock] = {
    "plain": LastBlock(),
    "maskclip": LastBlock(()),
    "sclip": LastBlock((("q", "q"), ("k", "k"))),
    "clearclip": LastBlock((("q", "q"),), residual=False, feed_forward=False),
    "naclip": LastBlock((("k", "k"),), residual=False, feed_forward=False, neighbours=True),
}


def neighbourhood(grid: tuple[int, int], std: float, prefix: int) -> Float[Array, "N N"]:
    """Builds NACLIP's prior: exp(−(Δrow² + Δcolumn²) / 2 std²) between patches of a grid.

    Args:
        grid: (h, w) in patches. std: in patches; NACLIP's is 5.
        prefix: tokens before the patches; they neither get nor give any (0).

    Returns:
        Float32[N N] with N = prefix + h·w, in [0, 1], 1 on the diagonal of the patches.
    """

    def along(count: int) -> Array:
        at = jnp.arange(count, dtype=jnp.float32)
        return jnp.exp(-jnp.square(at[:, None] - at[None, :]) / (2 * std**2))

    rows, columns = along(grid[0]), along(grid[1])
    both = rows[:, None, :, None] * columns[None, :, None, :]
    length = grid[0] * grid[1]
    return jnp.pad(both.reshape(length, length), ((prefix, 0), (prefix, 0)))

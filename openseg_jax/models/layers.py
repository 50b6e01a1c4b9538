"""The transformer block that both towers stack, and how a stack of them is run.

A tower keeps the parameters of all blocks in one tree with a leading depth axis. That serves a
`lax.scan` (one block is compiled, not twelve), any sub-range of blocks (CaR stops one early, MAFT
splits at block 8), and sharding rules that need one name per kind of parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.linear import default_kernel_init

from openseg_jax.models.last_block import LastBlock
from openseg_jax.models.remat import recomputed
from openseg_jax.ops.attention import attention
from openseg_jax.ops.rows import keep_rows
from openseg_jax.types import Array, Bool, Float, Params

# Draws a parameter from a key, a shape and perhaps a dtype.
Initializer = Callable[..., Any]


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Applies x·σ(1.702 x), the activation of OpenAI's CLIP (not a GELU: differs by 0.02)."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATION: dict[str, Callable[[Array], Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


class LayerNorm(nn.Module):
    """Normalises the last axis in float32 and returns the dtype that came in."""

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)
        # The two-pass variance: E[x²]−E[x]² loses digits that parity tests see.
        y = x.astype(jnp.float32)
        y = y - y.mean(axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(axis=-1, keepdims=True) + self.eps)
        return (y * scale + bias).astype(x.dtype)


class Mlp(nn.Module):
    """Two linear maps with an activation between."""

    width: int
    hidden: int
    act: str
    dtype: jnp.dtype = jnp.float32
    kernel_init: Initializer = default_kernel_init

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        switches: dict[str, Any] = {"dtype": self.dtype, "kernel_init": self.kernel_init}
        x = nn.Dense(self.hidden, name="c_fc", **switches)(x)
        return nn.Dense(self.width, name="c_proj", **switches)(ACTIVATION[self.act](x))


class Attention(nn.Module):
    """Multi-head attention with separate query, key, value and output maps.

    Inputs may be of any width; what comes out is of `out_width`, or of `width` where that is None.
    """

    width: int
    heads: int
    dtype: jnp.dtype = jnp.float32
    backend: str = "auto"
    kernel_init: Initializer = default_kernel_init
    out_width: int | None = None

    def setup(self) -> None:
        switches: dict[str, Any] = {"dtype": self.dtype, "kernel_init": self.kernel_init}
        self.query = nn.Dense(self.width, **switches)
        self.key = nn.Dense(self.width, **switches)
        self.value = nn.Dense(self.width, **switches)
        self.out = nn.Dense(self.out_width or self.width, **switches)

    def _heads(self, x: Float[Array, "B N D"]) -> Float[Array, "B N A d"]:
        return x.reshape(*x.shape[:-1], self.heads, self.width // self.heads)

    def project_in(
        self,
        x: Float[Array, "B N D"],
        kv: Float[Array, "B S D"] | None = None,
        value: Float[Array, "B S D"] | None = None,
    ) -> tuple[Float[Array, "B N A d"], Float[Array, "B S A d"], Float[Array, "B S A d"]]:
        """Computes queries of `x`, keys of `kv` (None: of `x`), values of `value` (None: `kv`)."""
        kv = x if kv is None else kv
        value = kv if value is None else value
        return self._heads(self.query(x)), self._heads(self.key(kv)), self._heads(self.value(value))

    def project_out(self, x: Float[Array, "B N A d"]) -> Float[Array, "B N D"]:
        """Joins the heads and applies the output map."""
        return self.out(x.reshape(*x.shape[:-2], self.width))

    def __call__(
        self,
        x: Float[Array, "B N D"],
        kv: Float[Array, "B S D"] | None = None,
        mask: Bool[Array, "#B #A #N S"] | None = None,
        value: Float[Array, "B S D"] | None = None,
    ) -> Float[Array, "B N D"]:
        q, k, v = self.project_in(x, kv, value)
        return self.project_out(attention(q, k, v, mask=mask, backend=self.backend))


class Block(nn.Module):
    """A pre-norm transformer block: x += attn(ln_1 x); x += mlp(ln_2 x)."""

    width: int
    heads: int
    mlp_width: int
    act: str
    eps: float
    dtype: jnp.dtype = jnp.float32
    backend: str = "auto"
    kernel_init: Initializer = default_kernel_init

    def setup(self) -> None:
        init = self.kernel_init
        self.ln_1 = LayerNorm(self.eps)
        self.attn = Attention(self.width, self.heads, self.dtype, self.backend, init)
        self.ln_2 = LayerNorm(self.eps)
        self.mlp = Mlp(self.width, self.mlp_width, self.act, self.dtype, init)

    def __call__(
        self, x: Float[Array, "B N D"], mask: Bool[Array, "#B #A #N N"] | None = None
    ) -> Float[Array, "B N D"]:
        x = x + self.attn(self.ln_1(x), mask=mask)
        return x + self.mlp(self.ln_2(x))

    def dense(
        self, x: Float[Array, "B N D"], last: LastBlock, bias: Float[Array, "N N"] | None = None
    ) -> Float[Array, "B N D"]:
        """Runs the block as the last one of a tower whose patches are to meet texts.

        Args:
            x: tokens that enter it.
            last: which attention, and what else of the block.
            bias: added to the attention's logits.
        """
        q, k, v = self.attn.project_in(self.ln_1(x))
        sides = {"q": q, "k": k}
        attended = v if last.attention == () else sum(
            attention(sides[a], sides[b], v, bias=bias, backend=self.backend)
            for a, b in last.attention
        )  # fmt: skip
        y = self.attn.project_out(attended)
        y = x + y if last.residual else y
        return y + self.mlp(self.ln_2(y)) if last.feed_forward else y

    def normed(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        """Returns ln_1(x), the activation that Grad-CAM looks at."""
        return self.ln_1(x)

    def project_in(
        self, a: Float[Array, "B N D"], kv: Float[Array, "B S D"] | None = None
    ) -> tuple[Float[Array, "B N A d"], Float[Array, "B S A d"], Float[Array, "B S A d"]]:
        """Computes the queries of ln_1's output `a`, and keys and values of `kv` (or of `a`)."""
        return self.attn.project_in(a, kv)

    def finish(
        self, x: Float[Array, "B N D"], attended: Float[Array, "B N A d"]
    ) -> Float[Array, "B N D"]:
        """Completes the block from its residual input and the attended values."""
        x = x + self.attn.project_out(attended)
        return x + self.mlp(self.ln_2(x))


def init_stack(block: Block, key: Array, depth: int) -> Params:
    """Initialises `depth` blocks as one tree with a leading depth axis."""
    x = jnp.zeros((1, 1, block.width), jnp.float32)
    return jax.vmap(lambda k: block.init(k, x)["params"])(jax.random.split(key, depth))


def block_params(stack: Params, index: int) -> Params:
    """Takes the parameters of block `index` (negative counts from the end) out of a stack."""
    return jax.tree.map(lambda leaf: leaf[index], stack)


def run_stack(
    block: Block,
    stack: Params,
    x: Float[Array, "B N D"],
    *,
    start: int = 0,
    stop: int | None = None,
    mask: Bool[Array, "#B #A #N N"] | None = None,
    scan: bool | str = True,
    remat: bool | str = "none",
) -> Float[Array, "B N D"]:
    """Runs blocks `start` to `stop` (exclusive) of a stack.

    Args:
        block: an unbound block; only its hyper-parameters are used.
        stack: parameters with a leading depth axis.
        x: tokens entering block `start`.
        start, stop: static ints with Python's slice meaning.
        mask: admitted keys, the same for every block.
        scan, remat: see `loop_blocks`.
    """

    def body(x: Array, params: Params) -> Any:
        return block.apply({"params": params}, x, mask=mask)

    return loop_blocks(body, stack, x, start=start, stop=stop, scan=scan, remat=remat)


def loop_blocks(
    body: Callable[[Any, Params], Any],
    stack: Params,
    x: Any,
    *,
    start: int = 0,
    stop: int | None = None,
    scan: bool | str = True,
    remat: bool | str = "none",
) -> Any:
    """Calls `body` with the parameters of blocks `start` to `stop` (exclusive), one by one.

    Args:
        body: maps what goes through the blocks, and one block's parameters, to what comes out.
        stack: parameters with a leading depth axis.
        x: what enters block `start`.
        start, stop: static ints with Python's slice meaning.
        scan: True compiles one body and loops over a slice of the stack. "index" loops over block
            numbers instead, which spares the copy that slicing makes of a part of the stack, but
            makes gradients dear: it is for inference. False unrolls the blocks.
        remat: what of a block to compute again in the backward pass; see `models.remat`.
    """
    numbers = range(jax.tree.leaves(stack)[0].shape[0])[start:stop]
    body = _rows_kept(recomputed(body, remat, looped=bool(scan)))
    if not scan:
        for number in numbers:
            x = body(x, block_params(stack, number))
        return x
    if scan == "index":

        def numbered(x: Any, number: Any) -> tuple[Any, None]:
            take = jax.lax.dynamic_index_in_dim
            return body(
                x, jax.tree.map(lambda leaf: take(leaf, number, keepdims=False), stack)
            ), None

        return jax.lax.scan(numbered, x, jnp.asarray(list(numbers), jnp.int32))[0]
    part = jax.tree.map(lambda leaf: leaf[start:stop], stack)
    return jax.lax.scan(lambda x, params: (body(x, params), None), x, part)[0]


def _rows_kept(body: Callable[[Any, Params], Any]) -> Callable[[Any, Params], Any]:
    return lambda x, params: body(keep_rows(x), params)

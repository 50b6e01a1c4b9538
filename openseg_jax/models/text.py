"""The text tower: causal with end-of-text pooling (CLIP), bidirectional (SigLIP), or a BERT."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from openseg_jax.errors import UserError
from openseg_jax.models.layers import Block, LayerNorm, init_stack, run_stack
from openseg_jax.models.variants import TextConfig
from openseg_jax.types import Array, Bool, Float, Int


class PostNormBlock(Block):
    """BERT's block: x = ln_1(x + attn(x)); x = ln_2(x + mlp(x))."""

    def __call__(
        self, x: Float[Array, "B N D"], mask: Bool[Array, "#B #A #N N"] | None = None
    ) -> Float[Array, "B N D"]:
        x = self.ln_1(x + self.attn(x, mask=mask))
        return self.ln_2(x + self.mlp(x))


class TextTransformer(nn.Module):
    """Maps token ids to the joint space. Attributes as in `VisionTransformer`."""

    config: TextConfig
    embed_dim: int
    dtype: jnp.dtype = jnp.float32
    scan: bool = True
    remat: bool | str = "none"
    backend: str = "auto"

    def setup(self) -> None:
        c = self.config
        self.token_embedding = self.param(
            "token_embedding", nn.initializers.normal(0.02), (c.vocab_size, c.width)
        )
        self.positional_embedding = self.param(
            "positional_embedding", nn.initializers.normal(0.01), (c.context, c.width)
        )
        self.blocks = self.param("blocks", lambda key: init_stack(self.block(), key, c.depth))
        if c.post_norm:
            self.ln_pre = LayerNorm(c.eps)
        else:
            self.ln_final = LayerNorm(c.eps)
        self.text_projection = nn.Dense(
            self.embed_dim,
            use_bias=c.proj_bias,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(c.width**-0.5),
        )

    def block(self) -> Block:
        """Returns the unbound block that the stack repeats."""
        c = self.config
        kind = PostNormBlock if c.post_norm else Block
        return kind(
            c.width, c.heads, c.mlp_width, c.act, c.eps, self.dtype, self.backend, parent=None
        )

    def __call__(self, ids: Int[Array, "B T"]) -> Float[Array, "B E"]:
        """Encodes sentences to the joint space, not normalised.

        Args:
            ids: token ids; T is at most the context length. A causal tower pooled at the end
                of text may be given shorter rows: what follows the end never matters to it.

        Raises:
            UserError: for rows longer than the context, or shorter where the last token pools.
        """
        c = self.config
        length = ids.shape[-1]
        if length > c.context or (c.pool == "last" and length != c.context):
            raise UserError(
                f"ids: expected {c.context} tokens a row, got {length}; "
                "use the tokenizer that came with the weights"
            )
        x = self.token_embedding[ids] + self.positional_embedding[:length]
        x = x.astype(self.dtype)
        if c.post_norm:
            x = self.ln_pre(x)
        mask = jnp.tril(jnp.ones((1, 1, length, length), bool)) if c.causal else None
        if c.post_norm:
            padding = (ids != 0)[:, None, None, :]
            mask = padding if mask is None else mask & padding
        x = run_stack(self.block(), self.blocks, x, mask=mask, scan=self.scan, remat=self.remat)
        x = x if c.post_norm else self.ln_final(x)
        if c.pool == "argmax":
            # OpenAI's end of text is the largest id; argmax takes its first position.
            at = ids.argmax(axis=-1)
            x = jnp.take_along_axis(x, at[:, None, None], axis=1)[:, 0]
        else:
            x = x[:, 0 if c.pool == "first" else -1]
        return self.text_projection(x)

"""SegCLIP: a CLIP whose image tower gathers patches into regions on the way.

The image tower runs the patches alone (there is no class token) through the first blocks, groups
them, and runs the last blocks on the regions. The image's embedding is the largest value of the
regions in every channel.

Source: Luo et al., "SegCLIP: Patch Aggregation with Learnable Centers for Open-Vocabulary Semantic
Segmentation", ICML 2023.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from openseg_jax.errors import UserError, expected, unknown_name
from openseg_jax.models.grouping import NEW_KERNEL, Grouping, GroupModule, RegionsToTokens
from openseg_jax.models.layers import Block, LayerNorm, init_stack, run_stack
from openseg_jax.models.mae_decoder import MaeDecoder
from openseg_jax.models.text import TextTransformer
from openseg_jax.models.variants import CLIPConfig
from openseg_jax.models.vit import PatchConv
from openseg_jax.ops.masked_patches import Masking, mask_patches
from openseg_jax.ops.posembed import resample_positions
from openseg_jax.types import Array, Float, Int, Key, Params


@dataclasses.dataclass(frozen=True)
class SegCLIPConfig:
    """What a SegCLIP's weights are.

    Attributes:
        clip: the CLIP it grew from: sizes, activations, text tower. `pos_resample` is "bicubic"
            in the published weights.
        first_blocks: blocks before the grouping; the rest of the tower's depth comes after it.
        centers: G. cross_layers: cross-attention blocks of the group module.
        temperature: of the straight-through Gumbel softmax in training.
        mask_ratio: share of the tokens that the reconstruction branch hides.
        recon_blocks: blocks between the rebuilt tokens and the decoder.
        decoder_width, decoder_depth, decoder_heads: of the decoder.
    """

    clip: CLIPConfig
    first_blocks: int = 10
    centers: int = 8
    cross_layers: int = 2
    temperature: float = 0.9
    mask_ratio: float = 0.75
    recon_blocks: int = 2
    decoder_width: int = 384
    decoder_depth: int = 3
    decoder_heads: int = 8

    def __post_init__(self) -> None:
        vision = self.clip.vision
        if vision.pool != "class" or not (vision.pre_norm and vision.proj) or vision.conv_bias:
            raise UserError(
                f"clip: expected a CLIP in OpenAI's form, got {self.clip.name!r} with pooling "
                f"{vision.pool!r}; SegCLIP is defined on CLIP ViTs only"
            )
        if not 1 <= self.first_blocks < vision.depth:
            raise expected(
                "first_blocks", f"1 to {vision.depth - 1} of {vision.depth} blocks",
                str(self.first_blocks), "leave at least one block for the regions",
            )  # fmt: skip
        for name in ("centers", "cross_layers", "recon_blocks", "decoder_depth"):
            if getattr(self, name) < 1:
                raise expected(name, "at least 1", str(getattr(self, name)), "correct it")
        if self.decoder_width % self.decoder_heads or self.decoder_width % 4:
            raise expected(
                "decoder_width", f"a multiple of 4 and of {self.decoder_heads} heads",
                str(self.decoder_width), "round it",
            )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Returns plain nested dicts, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SegCLIPConfig:
        """Builds it from `to_dict`'s output; unknown or missing keys raise UserError."""
        fields = {f.name for f in dataclasses.fields(cls)}
        for name in data:
            if name not in fields:
                unknown_name(name, fields, "segclip key")
        if "clip" not in data:
            raise UserError("segclip: missing clip; the configuration is incomplete")
        return cls(**{**data, "clip": CLIPConfig.from_dict(data["clip"])})


class Encoded(NamedTuple):
    """What the image tower says of a batch of images.

    Attributes:
        image: the images' embeddings. regions: the regions'. Neither is scaled to unit length.
        grouping: which patch went to which region.
    """

    image: Float[Array, "B E"]
    regions: Float[Array, "B G E"]
    grouping: Grouping


class Masked(NamedTuple):
    """What the reconstruction branch says of a batch of images.

    Attributes:
        tokens: of the seen patches, rebuilt from their regions, for the decoder.
        grouping: of the seen patches.
        rebuilt: the tokens before the branch's own blocks.
    """

    tokens: Float[Array, "B K D"]
    grouping: Grouping
    rebuilt: Float[Array, "B K D"]


class SegVision(nn.Module):
    """The image tower in pieces: `embed`, `first`, `group`, `encode`, `masked`.

    Attributes:
        config: sizes and conventions.
        cross_batch_kv, scramble_images: see `models.grouping.GroupModule`.
        dtype, scan, remat, backend: as in `models.clip.CLIP`.
    """

    config: SegCLIPConfig
    cross_batch_kv: str = "per_image"
    scramble_images: int = 0
    dtype: jnp.dtype = jnp.float32
    scan: bool = True
    remat: bool | str = "none"
    backend: str = "auto"

    def setup(self) -> None:
        c, v = self.config, self.config.clip.vision
        normal = nn.initializers.normal(v.width**-0.5)
        self.conv1 = PatchConv(v.patch_size, v.width, False, self.dtype)
        # Without influence, as in the published code; the checkpoints carry it.
        self.class_embedding = self.param("class_embedding", normal, (v.width,))
        positions = (v.grid**2 + 1, v.width)
        self.positional_embedding = self.param("positional_embedding", normal, positions)
        self.ln_pre = LayerNorm(v.eps)
        self.blocks = self._stack("blocks", c.first_blocks)
        self.grouper = GroupModule(
            v.width, v.heads, c.centers, c.cross_layers, v.eps, c.temperature,
            self.cross_batch_kv, self.scramble_images, self.dtype, self.scan,
            name="group",
        )  # fmt: skip
        self.blocks_after = self._stack("blocks_after", v.depth - c.first_blocks)
        self.blocks_recon = self.param("blocks_recon", self._init_recon)
        self.reconstruct = RegionsToTokens(self.dtype)
        self.ln_post = LayerNorm(v.eps)
        self.proj = nn.Dense(
            c.clip.embed_dim, use_bias=False, dtype=self.dtype, kernel_init=normal
        )  # fmt: skip

    def _stack(self, name: str, depth: int) -> Params:
        return self.param(name, lambda key: init_stack(self.block(), key, depth))

    def _init_recon(self, key: Key) -> Params:
        block = self.block().clone(kernel_init=NEW_KERNEL)
        stack = dict(init_stack(block, key, self.config.recon_blocks))
        attn = dict(stack["attn"])
        # Query, key and value are one packed matrix of width 3D in the original, drawn by Xavier.
        edge = (6.0 / (4 * block.width)) ** 0.5
        for index, name in enumerate(("query", "key", "value")):
            kernel = attn[name]["kernel"]
            fresh = jax.random.fold_in(key, index)
            drawn = jax.random.uniform(fresh, kernel.shape, jnp.float32, -edge, edge)
            attn[name] = {**attn[name], "kernel": drawn}
        return {**stack, "attn": attn}

    def block(self) -> Block:
        """Returns the unbound block that all three stacks repeat."""
        v = self.config.clip.vision
        return Block(
            v.width, v.heads, v.mlp_width, v.act, v.eps, self.dtype, self.backend, parent=None
        )

    def _run(self, stack: Params, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        return run_stack(self.block(), stack, x, scan=self.scan, remat=self.remat)

    def embed(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B L D"]:
        """Turns normalised images of any size into the patch tokens that enter the first block."""
        v = self.config.clip.vision
        if image.ndim != 4 or min(image.shape[1:3]) < v.patch_size:
            raise expected(
                "image", f"B H W 3 of at least {v.patch_size} pixels a side",
                str(tuple(image.shape)), "give a batch of normalised images",
            )  # fmt: skip
        x = self.conv1(image)
        grid = (x.shape[1], x.shape[2])
        table = resample_positions(
            self.positional_embedding[1:], grid, convention=v.pos_resample
        )  # fmt: skip
        x = x.reshape(x.shape[0], -1, v.width) + table.astype(self.dtype)
        return self.ln_pre(x)

    def first(self, tokens: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Runs the blocks before the grouping."""
        return self._run(self.blocks, tokens)

    def encode(
        self,
        tokens: Float[Array, "B L D"],
        *,
        key: Key | None = None,
        noise: Float[Array, "B G L"] | None = None,
    ) -> Encoded:
        """Groups what `embed` gave and encodes images and regions.

        Args:
            tokens: all patches.
            key, noise: of the assignment in training, see `GroupModule`; neither in evaluation.
        """
        grouping = self.grouper(self.first(tokens), key=key, noise=noise)
        regions = self._run(self.blocks_after, grouping.regions)
        both = jnp.concatenate([regions.max(axis=1, keepdims=True), regions], axis=1)
        both = self.proj(self.ln_post(both))
        return Encoded(both[:, 0], both[:, 1:], grouping)

    def masked(
        self,
        tokens: Float[Array, "B L D"],
        masking: Masking,
        *,
        key: Key | None = None,
        noise: Float[Array, "B G K"] | None = None,
    ) -> Masked:
        """Runs the reconstruction branch on the patches that `masking` keeps.

        Args:
            tokens: all patches, as `embed` gave them.
            masking: from `ops.masked_patches.mask_patches`.
            key, noise: as in `encode`.
        """
        seen = jnp.take_along_axis(tokens, masking.kept[..., None], axis=1)
        grouping = self.grouper(self.first(seen), key=key, noise=noise)
        rebuilt = self.reconstruct(grouping.hard, grouping.regions)
        return Masked(self._run(self.blocks_recon, rebuilt), grouping, rebuilt)

    def __call__(self, image: Float[Array, "B H W 3"]) -> Encoded:
        """Encodes images without noise, for evaluation."""
        return self.encode(self.embed(image))


class SegCLIP(nn.Module):
    """Both towers, the decoder and the logit scale.

    Attributes:
        config: what the weights are.
        cross_batch_kv: "per_image", or "torch18" for the published training's attention over the
            scrambled batch; scramble_images: see `models.grouping.GroupModule`.
        dtype, scan, remat, backend: as in `models.clip.CLIP`.
    """

    config: SegCLIPConfig
    cross_batch_kv: str = "per_image"
    scramble_images: int = 0
    dtype: jnp.dtype = jnp.float32
    scan: bool = True
    remat: bool | str = "none"
    backend: str = "auto"

    def setup(self) -> None:
        c, clip = self.config, self.config.clip
        switches = (self.dtype, self.scan, self.remat, self.backend)
        self.visual = SegVision(c, self.cross_batch_kv, self.scramble_images, *switches)
        self.text = TextTransformer(clip.text, clip.embed_dim, *switches)
        pixels = 3 * clip.vision.patch_size**2
        self.decoder = MaeDecoder(
            c.decoder_width, c.decoder_depth, c.decoder_heads, pixels, *switches
        )  # fmt: skip
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(2.6592600), ())

    def encode_image(self, image: Float[Array, "B H W 3"]) -> Encoded:
        """Encodes normalised images and their regions, without noise."""
        return self.visual(image)

    def encode_text(self, ids: Int[Array, "B T"]) -> Float[Array, "B E"]:
        """Encodes token ids, not scaled to unit length."""
        return self.text(ids)

    def scale(self) -> Float[Array, ""]:
        """Returns what cosines are multiplied with: exp(logit_scale), at most 100."""
        scale = jnp.exp(self.logit_scale)
        # The gradient passes at 100 itself, where jnp.minimum would halve it.
        return jnp.where(scale <= 100.0, scale, 100.0)

    def grid(self, image: Float[Array, "B H W 3"]) -> tuple[int, int]:
        """Returns the (h, w) of an image's patches."""
        patch = self.config.clip.vision.patch_size
        return image.shape[1] // patch, image.shape[2] // patch

    def reconstruct(
        self,
        tokens: Float[Array, "B L D"],
        masking: Masking,
        grid: tuple[int, int],
        *,
        key: Key | None = None,
        noise: Float[Array, "B G K"] | None = None,
        everything: bool = False,
    ) -> tuple[Float[Array, "B M P*P*3"], Masked]:
        """Predicts the pixels of hidden patches from the regions of the seen ones.

        Args:
            tokens: from `visual.embed`.
            masking: which patches are hidden.
            grid: (h, w) of the patches.
            key, noise: of the assignment.
            everything: predict all patches in order, not the hidden ones alone.

        Returns:
            CLIP-normalised pixels in the order of `masking.hidden`, and the branch.
        """
        branch = self.visual.masked(tokens, masking, key=key, noise=noise)
        wanted = None if everything else masking.hidden
        return self.decoder(branch.tokens, masking.restore, grid, wanted), branch

    def __call__(self, image: Float[Array, "B H W 3"], ids: Int[Array, "B T"]) -> Any:
        """Touches every parameter once, for initialisation; see `init_params`."""
        tokens = self.visual.embed(image)
        noise = jnp.zeros(tokens.shape[:2], jnp.float32)
        masking = mask_patches(noise, self.config.mask_ratio)
        pixels, _ = self.reconstruct(tokens, masking, self.grid(image))
        return self.visual.encode(tokens).image, self.text(ids), pixels, self.logit_scale


def init_params(model: SegCLIP, key: Key) -> Params:
    """Draws fresh float32 parameters; no image or text is needed."""
    clip = model.config.clip
    image = jnp.zeros((1, clip.vision.image_size, clip.vision.image_size, 3), jnp.float32)
    ids = jnp.zeros((1, clip.text.context), jnp.int32)
    return model.init(key, image, ids)["params"]

"""Dense CLIP: a frozen CLIP whose patches are compared with texts, the baseline of the field.

    dense = load_segmenter("clip_dense", "ViT-B-16", variant="naclip")
    text = dense.classes(["zebra", "grass"])                    # once a vocabulary
    masks = dense.segment(dense.params, images, text)           # jittable
    labels = to_label_map(masks)

An image is resized to a short side of 336 pixels and cut into windows of 224 pixels with stride
112; all windows of all images are encoded together. The last block of the tower does what
`models.last_block` lists: plain CLIP, MaskCLIP, SCLIP, ClearCLIP or NACLIP. Each patch's cosines
with all texts (means over OpenAI's 80 prompts) are enlarged bilinearly to the window, averaged
where windows overlap, and resized bilinearly to the image. There a softmax over all texts with
scale 40 gives probabilities. A pixel takes the best class, and is background where a background
text wins, or where the best probability is below a threshold.

Published settings by benchmark, each with its source: `configs/clip_dense.py`. Refinement by PAMR,
which NACLIP's main table has, is `refine="pamr"`; MaskCLIP's key smoothing and prompt denoising are
left out; docs/clip_dense.md lists every other difference.

Sources: Zhou et al., "Extract Free Dense Labels from CLIP", ECCV 2022; Wang et al., "SCLIP:
Rethinking Self-Attention for Dense Vision-Language Inference", ECCV 2024; Lan et al., "ClearCLIP:
Decomposing CLIP Representations for Dense Vision-Language Inference", ECCV 2024; Hajimiri et al.,
"Pay Attention to Your Neighbours: Training-Free Open-Vocabulary Semantic Segmentation", WACV 2025.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.errors import UserError, check_shape
from openseg_jax.methods import clip_dense_texts, windowed
from openseg_jax.methods.base import check_dtype, remembered, true_sizes
from openseg_jax.methods.clip_dense_config import ClipDenseConfig, configure
from openseg_jax.methods.clip_dense_texts import DenseText
from openseg_jax.methods.windows import (
    Plan,
    back,
    cut_windows,
    pixels_at,
    start,
    window_count,
)
from openseg_jax.models.clip import normalize
from openseg_jax.models.last_block import LastBlock
from openseg_jax.models.vit import VisionTransformer
from openseg_jax.ops.pamr import pamr
from openseg_jax.ops.resize import apply_matrices, half_pixel
from openseg_jax.types import Array, Bool, Float, Int, Masks, Params, UInt8
from openseg_jax.weights.load import load_clip
from openseg_jax.weights.loaded import LoadedClip

__all__ = ["ClipDense", "Reader", "load"]

_EXACT = jax.lax.Precision.HIGHEST
# NACLIP's published code, in place of PAMR's own distances.
_PAMR_TURNS, _PAMR_DILATIONS = 10, (8, 16)


@dataclasses.dataclass(frozen=True)
class Reader:
    """The computation; hashable, so that segmenters of equal settings share programs.

    Attributes:
        tower: the unbound image tower. plan: sizes.
        mean, std: of the pixels, for values in [0, 1].
        last: what the last block does. spread: std of its neighbourhood, patches.
        convention: of resampled positions; None takes the weights' own.
        scale, bg_threshold, min_share, refine: see `ClipDenseConfig`.
    """

    tower: VisionTransformer
    plan: Plan
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    last: LastBlock
    spread: float
    convention: str | None
    scale: float
    bg_threshold: float | None
    min_share: float
    refine: str = "none"

    def cosines(
        self, params: Params, pixels: UInt8[Array, "N H W 3"], rows: Float[Array, "G E"]
    ) -> Float[Array, "N G h w"]:
        """Compares every patch of windows with every text; float32 in [-1, 1]."""
        mean, std = (255 * np.asarray(v, np.float32) for v in (self.mean, self.std))
        tokens: Any = self.tower.apply(
            {"params": params["visual"]}, (pixels.astype(jnp.float32) - mean) / std, project=True,
            last=self.last, std=self.spread, convention=self.convention,
            method=VisionTransformer.tokens,
        )  # fmt: skip
        cosines = jnp.einsum("nle,ge->ngl", normalize(tokens), rows, precision=_EXACT)
        return cosines.reshape(*cosines.shape[:2], *self._grid(pixels.shape[1:3]))

    def _grid(self, side: tuple[int, ...]) -> tuple[int, int]:
        return side[0] // self.plan.patch, side[1] // self.plan.patch

    def _way_back(
        self, canvas: int, size: Any, work: Any, at: Any, side: int
    ) -> Float[Array, "canvas cells"]:
        """Builds the matrix from a window's patches to the image's pixels, along one axis."""
        enlarge = half_pixel(side // self.plan.patch, side).astype(np.float32)
        weights = back(self.plan, canvas, size, work, at, side)
        if isinstance(weights, np.ndarray):
            return weights @ enlarge
        return jnp.matmul(weights, enlarge, precision=_EXACT)

    def dense(
        self, params: Params, image: UInt8[Array, "B H W 3"], rows: Float[Array, "G E"]
    ) -> Float[Array, "B G H W"]:
        """Computes each pixel's cosines with all texts, for images that fill their canvas."""
        size = (image.shape[1], image.shape[2])
        work, cuts = self.plan.work_size(*size), cut_windows(self.plan, image)
        maps = self.cosines(params, cuts.reshape(-1, *cuts.shape[2:]), rows)
        down, across = (window_count(self.plan, n) for n in work)
        h, w = maps.shape[2:]
        # All windows side by side: one pair of matrices enlarges, averages and resizes them.
        maps = maps.reshape(-1, down, across, maps.shape[1], h, w).transpose(0, 3, 1, 4, 2, 5)
        maps = maps.reshape(*maps.shape[:2], down * h, across * w)
        ways = [
            np.concatenate(
                [
                    self._way_back(size[i], size[i], work[i], start(self.plan, n, work[i]), side)
                    for n in range(count)
                ],
                axis=1,
            )
            for i, (count, side) in enumerate(zip((down, across), cuts.shape[2:4], strict=True))
        ]
        return apply_matrices(maps, ways[0], ways[1])

    def dense_part(
        self,
        params: Params,
        image: UInt8[Array, "B H W 3"],
        size: Int[Array, "B 2"],
        rows: Float[Array, "G E"],
    ) -> Float[Array, "B G H W"]:
        """Does the same for images whose true sizes, at the top left, are traced numbers.

        Each turn encodes one window of every image; the image with most windows says how many.
        """
        plan, canvas = self.plan, image.shape[1:3]
        side = (plan.crop, plan.crop)
        heights, widths = plan.work_size(size[:, 0], size[:, 1])
        across = window_count(plan, widths)
        counts = window_count(plan, heights) * across

        def turn(index: Any, total: Array) -> Array:
            def one(image: Any, size: Any, work: Any, across: Any, count: Any) -> Any:
                numbers = (index // across, index % across)
                at = tuple(start(plan, n, length) for n, length in zip(numbers, work, strict=True))
                ways = [
                    self._way_back(canvas[i], size[i], work[i], at[i], plan.crop) for i in (0, 1)
                ]
                pixels = pixels_at(image, (size[0], size[1]), work, (at[0], at[1]), side)
                return pixels, jnp.where(index < count, ways[0], 0), ways[1]

            pixels, down, right = jax.vmap(one)(image, size, (heights, widths), across, counts)
            maps = self.cosines(params, pixels, rows)
            maps = jnp.einsum("bghw,bWw->bghW", maps, right, precision=_EXACT)
            return total + jnp.einsum("bghW,bHh->bgHW", maps, down, precision=_EXACT)

        shape = (image.shape[0], rows.shape[0], *canvas)
        return jax.lax.fori_loop(0, counts.max(), turn, jnp.zeros(shape, jnp.float32))

    def refined(
        self,
        image: UInt8[Array, "B H W 3"],
        cosines: Float[Array, "B G H W"],
        valid: Bool[Array, "B H W"] | None,
    ) -> Float[Array, "B G H W"]:
        """Lets cosines follow the colours of their image, if asked for; see `ops.pamr`."""
        if self.refine == "none":
            return cosines

        def one(given: tuple[Any, Any, Any]) -> Array:
            return pamr(*given, iterations=_PAMR_TURNS, dilations=_PAMR_DILATIONS)

        return jax.lax.map(one, (image, cosines, valid))

    def probabilities(
        self, cosines: Float[Array, "B G H W"], text: DenseText
    ) -> Float[Array, "B K+1 H W"]:
        """Turns cosines into probabilities over all texts: the best background's, the classes'."""
        kind = jnp.asarray(text.kind)[:, None, None]
        logits = jnp.where(kind > 0, self.scale * cosines, -jnp.inf)
        soft = jax.nn.softmax(logits.astype(jnp.float32), axis=1)
        background = jnp.where(kind == 2, soft, 0).max(axis=1, keepdims=True)
        members = jnp.asarray(text.members)
        if members.shape[1] == 1:
            classes = soft[:, : members.shape[0]]
        else:
            each = (soft[:, members[:, i]] for i in range(members.shape[1]))
            classes = functools.reduce(jnp.maximum, each)
        classes = jnp.where(jnp.asarray(text.real)[:, None, None], classes, 0)
        return jnp.concatenate([background, classes], axis=1)

    def decide(self, probs: Float[Array, "B K+1 H W"], valid: Bool[Array, "B H W"] | None) -> Masks:
        """Gives each pixel to background or its best class: masks of 0 and 1, one a class."""
        numbers = jnp.arange(1, probs.shape[1])[:, None, None]

        def winners(probs: Array) -> Array:
            best, top = probs.argmax(axis=1), probs.max(axis=1)
            if self.bg_threshold is not None:
                best = jnp.where(top < self.bg_threshold, 0, best)
            return best if valid is None else jnp.where(valid, best, 0)

        if self.min_share:
            # Published: before any threshold.
            best = probs.argmax(axis=1)[:, None]
            exists = True if valid is None else valid[:, None]
            area = ((best == numbers) & exists).sum(axis=(2, 3), dtype=jnp.int32)
            kept = area > self.min_share * area.sum(axis=1, keepdims=True)
            kept = jnp.pad(kept, ((0, 0), (1, 0)), constant_values=True)
            probs = jnp.where(kept[..., None, None], probs, 0)
        won = winners(probs)[:, None] == numbers
        area = won.sum(axis=(2, 3), dtype=jnp.int32)
        scores = jnp.where(won, probs[:, 1:], 0).sum(axis=(2, 3)) / jnp.maximum(area, 1)
        return Masks(won.astype(jnp.float32), scores, area > 0)

    def segment(self, params: Params, image: Any, text: DenseText, valid: Any) -> Masks:
        """Does what `ClipDense.segment` does, all arguments traced or not."""
        rows = jnp.asarray(text.rows)
        if valid is None:
            cosines = self.dense(params, image, rows)
        else:
            cosines = self.dense_part(params, image, true_sizes(valid), rows)
        cosines = self.refined(image, cosines, valid)
        return self.decide(self.probabilities(cosines, text), valid)


# The jitted edge of this method beside `windowed.segment`.
@functools.partial(jax.jit, static_argnames="reader")
def _dense(reader: Reader, params: Params, image: Any, text: DenseText) -> Any:
    cosines = reader.dense(params, image, jnp.asarray(text.rows))
    return reader.probabilities(reader.refined(image, cosines, None), text)


class ClipDense:
    """The segmenter. See the module's text for use.

    Attributes:
        config: settings. clip: loaded weights.
        dtype: of the image tower ("float32" or "bfloat16"); attention's softmax, cosines and
            probabilities are float32.
    """

    def __init__(
        self, clip: LoadedClip, config: ClipDenseConfig, *, dtype: str = "float32"
    ) -> None:
        check_dtype(dtype)
        vision = clip.config.vision
        if vision.pool == "map":
            raise UserError(
                f"model: the patches of {clip.config.name!r} meet texts only through its pooling "
                "head, so they cannot be compared with texts one by one; use a CLIP with a class "
                "token, e.g. ViT-B-16, or method car or maft"
            )
        self.clip, self.config, self.dtype = clip, config, dtype
        self.reader = Reader(
            VisionTransformer(vision, clip.config.embed_dim, jnp.dtype(dtype), scan="index"),
            config.plan(vision), clip.preprocess.mean, clip.preprocess.std, config.last, config.std,
            config.pos_resample, config.logit_scale, config.bg_threshold, config.min_share,
            config.refine,
        )  # fmt: skip
        tower: Any = clip
        self._texts = remembered(functools.partial(clip_dense_texts.build, config, tower))

    @functools.cached_property
    def params(self) -> Params:
        """The image tower, on the default device."""
        return {"visual": jax.tree.map(jnp.asarray, self.clip.params["visual"])}

    def classes(self, names: Sequence[str], background: Sequence[str] | None = None) -> DenseText:
        """Encodes a vocabulary; the few used last are kept.

        Args:
            names: what to look for, each once; a name may hold synonyms ("person, people"), of
                which the best counts.
            background: texts that compete and are not reported; None takes the configured ones.
        """
        return self._texts(names, background)

    def segment(
        self,
        params: Params,
        image: UInt8[Array, "B H W 3"],
        text: DenseText,
        valid: Bool[Array, "B H W"] | None = None,
    ) -> Masks:
        """Segments a batch of images. With plain arrays it calls its own compiled form.

        Args:
            params: `self.params`.
            image: RGB bytes; smaller images sit at the top left of the canvas.
            text: from `classes`.
            valid: pixels that exist, a rectangle at the top left; None means all.

        Returns:
            Masks with one mask and one score a class: the mean probability of the pixels it won.
            Masks are 0 or 1 and do not overlap; what is background is in none of them.

        Raises:
            UserError: for images of another shape, or whole mode with a traced `valid`.
        """
        return windowed.segment(self.reader, params, image, text, valid, alone=False)

    def dense(
        self, params: Params, image: UInt8[Array, "B H W 3"], text: DenseText
    ) -> Float[Array, "B C+1 H W"]:
        """Computes each pixel's probabilities: the best background text's (or 0), the classes'.

        They are parts of one softmax over all texts, synonyms included, so they sum to at most 1.
        """
        check_shape(image, "B H W 3", "image", dtype="uint8", fix="give a batch of RGB bytes")
        return _dense(self.reader, params, image, text.anonymous())[:, : 1 + text.count]


def load(
    model: str | os.PathLike[str] | LoadedClip,
    *,
    parity: str | None = None,
    dtype: str = "float32",
    **settings: Any,
) -> ClipDense:
    """Builds dense CLIP on given weights.

    Args:
        model: a name, a path, or a loaded CLIP.
        parity: "reference" for the published behaviour, see `clip_dense_config.configure`.
        dtype: "float32" or "bfloat16".
        settings: fields of `ClipDenseConfig`. Settings that the model folder recommends for dense
            CLIP come before them in line, and after `parity`.

    Raises:
        UserError: for a tower whose patches meet no texts (SigLIP), or unknown settings.
    """
    clip = load_clip(model)
    defaults = dict(clip.defaults.get("clip_dense", {})) if parity is None else {}
    return ClipDense(clip, configure(parity=parity, **{**defaults, **settings}), dtype=dtype)

"""SegCLIP: segments by naming the regions that learnt centres gather.

    segclip = load_segmenter("segclip", "my_segclip_folder")
    text = segclip.classes(["zebra", "grass"])
    masks = segclip.segment(segclip.params, images, text)     # jittable
    labels = to_label_map(masks)

An image is cut into windows, all windows are encoded in one batch, and every pixel takes the scores
of its region: how well the region's embedding fits each class, among the classes that the window
as a whole resembles most. Regions that fit nothing well are background.

Source: Luo et al., "SegCLIP: Patch Aggregation with Learnable Centers for Open-Vocabulary Semantic
Segmentation", ICML 2023. docs/segclip.md lists where the default differs from the published code.
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

from openseg_jax.errors import check_shape
from openseg_jax.methods import segclip_texts, windowed
from openseg_jax.methods.base import check_dtype, remembered, true_sizes
from openseg_jax.methods.segclip_config import SegClipConfig, configure
from openseg_jax.methods.segclip_texts import SegClipText
from openseg_jax.methods.windows import (
    Plan,
    back,
    cut_windows,
    pixels_at,
    start,
    window_count,
    window_starts,
)
from openseg_jax.models.clip import normalize
from openseg_jax.models.segclip import Encoded, SegCLIP
from openseg_jax.ops.resize import resize
from openseg_jax.types import Array, Bool, Float, Masks, Params, UInt8
from openseg_jax.weights.load import load_clip
from openseg_jax.weights.loaded import LoadedClip
from openseg_jax.weights.segclip_folder import segclip_of

__all__ = ["Reader", "SegClip", "load", "region_scores"]


def region_scores(
    image: Float[Array, "B E"],
    regions: Float[Array, "B G E"],
    text: SegClipText,
    scale: Float[Array, ""],
    *,
    top_classes: int,
    bg_threshold: float | None,
) -> Float[Array, "B G C+1"]:
    """Scores each region of a window for background and every class.

    softmax over all classes times softmax over those among the `top_classes` that the whole image
    resembles most. Background scores 1 where a region's best class stays below the threshold (and
    below the best region's score, so that some region is always foreground), else 0.

    Args:
        image, regions: embeddings, of any length.
        text: the classes.
        scale: of the cosines.
        top_classes: how many classes a window may hold.
        bg_threshold: None gives every background the score −1.

    Source: specified by the published evaluation code.
    """
    rows, valid = normalize(jnp.asarray(text.rows)), jnp.asarray(text.valid)
    whole = jnp.where(valid, scale * normalize(image) @ rows.T, -jnp.inf)
    _, best = jax.lax.top_k(whole, min(top_classes, rows.shape[0]))
    kept = jnp.zeros(whole.shape, bool)
    kept = kept.at[jnp.arange(whole.shape[0])[:, None], best].set(True) & valid
    logits = scale * jnp.einsum("bge,ce->bgc", normalize(regions), rows, precision="highest")
    before = jax.nn.softmax(jnp.where(valid, logits, -jnp.inf), axis=-1)
    after = jax.nn.softmax(jnp.where(kept[:, None], logits, -jnp.inf), axis=-1)
    scores = after * before
    if bg_threshold is None:
        background = jnp.full(scores.shape[:2], -1.0)
    else:
        highest = scores.max(axis=(1, 2))[:, None]
        weak = scores.max(axis=2) < jnp.minimum(bg_threshold, highest)
        background = weak.astype(jnp.float32)
    return jnp.concatenate([background[..., None], scores], axis=-1)


@dataclasses.dataclass(frozen=True)
class Reader:
    """The computation; hashable, so that segmenters of equal settings share programs.

    Attributes:
        model: the unbound model. plan: sizes.
        mean, std: of the pixels, for values in [0, 1].
        top_classes, bg_threshold: see `SegClipConfig`.
    """

    model: SegCLIP
    plan: Plan
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    top_classes: int
    bg_threshold: float | None

    def encode(
        self, params: Params, pixels: UInt8[Array, "B h w 3"]
    ) -> tuple[Encoded, Float[Array, ""]]:
        """Encodes windows, once."""
        mean, std = (255 * np.asarray(v, np.float32) for v in (self.mean, self.std))
        x = (pixels.astype(jnp.float32) - mean) / std

        def run(model: SegCLIP) -> tuple[Encoded, Float[Array, ""]]:
            return model.encode_image(x), model.scale()

        out: Any = self.model.apply({"params": params}, method=run)
        return out

    def window_scores(
        self, params: Params, pixels: UInt8[Array, "B h w 3"], text: SegClipText
    ) -> tuple[Float[Array, "B G C+1"], Float[Array, "B G h w"]]:
        """Scores the regions of windows, and says which pixel belongs to which region (0 or 1)."""
        encoded, scale = self.encode(params, pixels)
        scores = region_scores(
            encoded.image, encoded.regions, text, scale,
            top_classes=self.top_classes, bg_threshold=self.bg_threshold,
        )  # fmt: skip
        soft, side = encoded.grouping.soft, (pixels.shape[1], pixels.shape[2])
        grid = (side[0] // self.plan.patch, side[1] // self.plan.patch)
        # The soft maps are enlarged and then compared: finer borders than the patches' own.
        fine = resize(soft.reshape(*soft.shape[:2], *grid), side)
        region = jax.nn.one_hot(fine.argmax(axis=1), soft.shape[1], axis=1, dtype=jnp.float32)
        return scores, region

    def dense(
        self, params: Params, image: UInt8[Array, "B H W 3"], text: SegClipText
    ) -> Float[Array, "B C+1 H W"]:
        """Scores each pixel of images that fill their canvas: background first, then classes."""
        size = (image.shape[1], image.shape[2])
        work, cuts = self.plan.work_size(*size), cut_windows(self.plan, image)
        scores, region = self.window_scores(params, cuts.reshape(-1, *cuts.shape[2:]), text)
        count = cuts.shape[1]
        scores, region = (x.reshape(-1, count, *x.shape[1:]) for x in (scores, region))
        total: Any = 0.0
        for index, at in enumerate(window_starts(self.plan, size)):
            total = total + self._lay(scores[:, index], region[:, index], size, size, work, at)
        return total

    def dense_part(
        self, params: Params, image: UInt8[Array, "H W 3"], size: Any, text: SegClipText
    ) -> Float[Array, "C+1 H W"]:
        """Does the same for one image whose true size, at the top left, is a traced number."""
        plan, canvas = self.plan, (image.shape[0], image.shape[1])
        size = (size[0], size[1])
        work = plan.work_size(*size)
        down, across = (window_count(plan, n) for n in work)
        side = (plan.crop, plan.crop)

        def add(index: Any, total: Array) -> Array:
            at = (start(plan, index // across, work[0]), start(plan, index % across, work[1]))
            pixels = pixels_at(image, size, work, at, side)[None]
            scores, region = self.window_scores(params, pixels, text)
            return total + self._lay(scores, region, canvas, size, work, at)[0]

        shape = (text.rows.shape[0] + 1, *canvas)
        return jax.lax.fori_loop(0, down * across, add, jnp.zeros(shape, jnp.float32))

    def _lay(
        self, scores: Array, region: Array, canvas: tuple[int, int], size: Any, work: Any, at: Any
    ) -> Float[Array, "B C+1 H W"]:
        """Brings one window's scores to the pixels of the image."""
        h, w = region.shape[-2:]
        rows = back(self.plan, canvas[0], size[0], work[0], at[0], h)
        columns = back(self.plan, canvas[1], size[1], work[1], at[1], w)
        # Regions are resized, not classes: there are eight, and any number of classes.
        masks = jnp.einsum("bghw,Ww->bghW", region, columns, precision="highest")
        masks = jnp.einsum("bghW,Hh->bgHW", masks, rows, precision="highest")
        return jnp.einsum("bgc,bgHW->bcHW", scores, masks, precision="highest")

    def segment(self, params: Params, image: Any, text: SegClipText, valid: Any) -> Masks:
        """Does what `SegClip.segment` does, all arguments traced or not."""
        if valid is None:
            dense = self.dense(params, image, text)
        else:
            dense = jax.lax.map(
                lambda x: self.dense_part(params, x[0], x[1], text), (image, true_sizes(valid))
            )
        winner = dense.argmax(axis=1)
        won = winner[:, None] == jnp.arange(1, dense.shape[1])[:, None, None]
        if valid is not None:
            won = won & valid[:, None]
        scores = jnp.where(won, dense[:, 1:], 0.0).max(axis=(2, 3))
        # A score of 0 is never painted, but a class that won may have one next to it.
        scores = jnp.clip(scores, jnp.finfo(jnp.float32).tiny, 1.0)
        found = won.any(axis=(2, 3))
        return Masks(won.astype(jnp.float32), jnp.where(found, scores, 0.0), found)


# The jitted edge of this method beside `windowed.segment`.
@functools.partial(jax.jit, static_argnames="reader")
def _dense(reader: Reader, params: Params, image: Any, text: SegClipText) -> Any:
    return reader.dense(params, image, text)


class SegClip:
    """The segmenter. See the module's text for use.

    Attributes:
        config: settings. clip: loaded weights that hold a SegCLIP.
        dtype: of the image tower ("float32" or "bfloat16"); assignments and scores are float32.
    """

    def __init__(self, clip: LoadedClip, config: SegClipConfig, *, dtype: str = "float32") -> None:
        check_dtype(dtype)
        self.clip, self.config, self.dtype = clip, config, dtype
        described, self._all = segclip_of(clip)
        self.reader = Reader(
            SegCLIP(described, dtype=jnp.dtype(dtype)), config.plan(described.clip.vision),
            clip.preprocess.mean, clip.preprocess.std, config.top_classes, config.bg_threshold,
        )  # fmt: skip
        tower: Any = dataclasses.replace(clip, params={"text": self._all["text"]})
        self._texts = remembered(functools.partial(segclip_texts.build, config, tower))

    @functools.cached_property
    def params(self) -> Params:
        """The image tower and the logit scale, on the default device."""
        part = {name: self._all[name] for name in ("visual", "logit_scale")}
        return jax.tree.map(jnp.asarray, part)

    def classes(self, names: Sequence[str], background: Sequence[str] | None = None) -> SegClipText:
        """Encodes a vocabulary; the few used last are kept.

        Args:
            names: what to look for, each once.
            background: texts that compete and are not reported; None takes the configured ones.
                What resembles none of the names is background with or without them.
        """
        return self._texts(names, background)

    def segment(
        self,
        params: Params,
        image: UInt8[Array, "B H W 3"],
        text: SegClipText,
        valid: Bool[Array, "B H W"] | None = None,
    ) -> Masks:
        """Segments a batch of images. With plain arrays it calls its own compiled form.

        Args:
            params: `self.params`.
            image: RGB bytes; smaller images sit at the top left of the canvas.
            text: from `classes`.
            valid: pixels that exist, a rectangle at the top left; None means all.

        Returns:
            Masks with one mask and one score a class. Masks are 0 or 1 and do not overlap; what
            is background is in none of them.

        Raises:
            UserError: for images of another shape, or whole mode with a traced `valid`.
        """
        # One by one: together, every window of a padded batch is a turn of a loop by itself.
        return windowed.segment(self.reader, params, image, text, valid, alone=True)

    def dense(
        self, params: Params, image: UInt8[Array, "B H W 3"], text: SegClipText
    ) -> Float[Array, "B C+1 H W"]:
        """Scores each pixel at the image's own size: background, the classes, the backgrounds.

        The label map is the place of the largest. Without a threshold the first row is −1.
        """
        check_shape(image, "B H W 3", "image", dtype="uint8", fix="give a batch of RGB bytes")
        scores = _dense(self.reader, params, image, text.anonymous())
        return scores[:, : 1 + text.count + text.rivals]


def load(
    model: str | os.PathLike[str] | LoadedClip,
    *,
    parity: str | None = None,
    dtype: str = "float32",
    **settings: Any,
) -> SegClip:
    """Builds SegCLIP on given weights.

    Args:
        model: a name, a path, or loaded weights; they must hold a SegCLIP.
        parity: "reference" for the published behaviour. Inference has no repairs, so it only
            passes over the settings that the model folder recommends.
        dtype: "float32" or "bfloat16".
        settings: fields of `SegClipConfig`. Settings that the model folder recommends for SegCLIP
            come before them in line.

    Raises:
        UserError: for weights without a SegCLIP, or unknown settings.
    """
    clip = load_clip(model)
    defaults = clip.defaults.get("segclip", {}) if parity is None else {}
    return SegClip(clip, configure(parity=parity, **{**defaults, **settings}), dtype=dtype)

"""MAFT: segments by classifying mask proposals with a mask-aware CLIP, one pass an image.

    maft = load_segmenter("maft", "ViT-B-16")            # any CLIP; region proposals
    text = maft.classes(["zebra", "grass"])
    masks = maft.segment(maft.params, images, text)      # jittable
    labels = to_label_map(masks, threshold=maft.threshold)

Every image and all its masks go through the image tower together (`models.ip_clip`); each mask gets
a softmax over the classes, and a pixel takes the class with the largest Σ_m score · mask.

Source: Jiao et al., "Learning Mask-aware CLIP Representations for Zero-Shot Segmentation", NeurIPS
2023. docs/maft.md lists where the default differs from the published code.
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
from jax.core import Tracer

from openseg_jax.errors import UserError, check_shape, expected
from openseg_jax.methods import maft_texts
from openseg_jax.methods.maft_config import LONGEST_EDGE, MaftConfig, Plan, configure, plan
from openseg_jax.methods.maft_scores import class_probabilities, ensemble
from openseg_jax.methods.maft_texts import MaftText
from openseg_jax.methods.proposals import ProposalSource, load_source
from openseg_jax.models import ip_clip
from openseg_jax.models.vit import VisionTransformer
from openseg_jax.ops.resize import resize
from openseg_jax.ops.resize_uint8 import byte_pair, resize_bytes
from openseg_jax.ops.sampling import sample_centres
from openseg_jax.ops.token_masks import reference_grid, token_masks
from openseg_jax.types import Array, Bool, Float, Masks, Params, UInt8
from openseg_jax.weights.load import load_clip
from openseg_jax.weights.loaded import LoadedClip

__all__ = ["Encoder", "Maft", "load", "short_edge_size"]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Encodes masks of images; hashable, so that segmenters of equal settings share programs.

    Attributes:
        tower: the unbound image tower.
        plan: sizes. mean, std: of the pixels, for values in [0, 1].
        pos_resample, pad_to, square_tokens: see `MaftConfig`.
    """

    tower: VisionTransformer
    plan: Plan
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pos_resample: str
    pad_to: int
    square_tokens: bool

    def canvas(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the padded size of an image."""
        step = max(self.pad_to, 1)
        return -(-size[0] // step) * step, -(-size[1] // step) * step

    def pixels(
        self, image: UInt8[Array, "B H W 3"], sizes: Float[Array, "B 2"] | None = None
    ) -> Float[Array, "B S S 3"]:
        """Normalises images and squeezes them to the encoder's square.

        Args:
            image: RGB bytes.
            sizes: true (height, width) of each image in a canvas; None is all of it.

        Source: maft.md §1.2; bilinear with half-pixel centres, no antialias.
        """
        mean, std = jnp.asarray(self.mean, jnp.float32), jnp.asarray(self.std, jnp.float32)
        x = (image.astype(jnp.float32) / 255 - mean) / std
        height, width = self.canvas(image.shape[1:3])
        if sizes is None:
            more = [(0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]), (0, 0)]
            x = jnp.pad(x, more)
        square = (self.plan.size, self.plan.size)
        return jnp.moveaxis(sample_centres(jnp.moveaxis(x, -1, 1), square, sizes=sizes), 1, -1)

    def encode(
        self,
        visual: Params,
        pixels: Float[Array, "B S S 3"],
        masks: Float[Array, "B M h w"],
        sizes: Float[Array, "B 2"] | None = None,
    ) -> Float[Array, "B M E"]:
        """Encodes every mask of every image, not scaled to unit length.

        Args:
            visual: the tower's parameters.
            pixels: from `pixels`.
            masks: soft masks of the same field of view, at any resolution.
            sizes: true (height, width) of each image in pixels of `masks`, where they sit in a
                canvas; None is all of it.
        """
        grid = reference_grid(self.plan.grid) if self.square_tokens else self.plan.grid
        inside = token_masks(masks, grid, sizes=sizes)
        encode: Any = functools.partial(
            ip_clip.ip_encode, start=self.plan.start, convention=self.pos_resample
        )

        def method(tower: VisionTransformer, x: Array, inside: Array) -> Array:
            return encode(tower, x.astype(tower.dtype), inside)

        return self.tower.apply({"params": visual}, pixels, inside, method=method)  # type: ignore


def full_size(
    probs: Float[Array, "B M h w"], size: tuple[int, int], canvas: tuple[int, int]
) -> Float[Array, "B M H W"]:
    """Resizes masks of a padded canvas and cuts them to the image.

    Args:
        probs: masks that cover the canvas, at any resolution.
        size: (H, W) of the image. canvas: its padded size.
    """
    if canvas != size:
        probs = resize(probs, canvas)[..., : size[0], : size[1]]
    return resize(probs, size) if probs.shape[2:] != size else probs.astype(jnp.float32)


def short_edge_size(size: tuple[int, int], short: int, longest: int) -> tuple[int, int]:
    """Returns the size at which the short side is `short` and the long one at most `longest`.

    Source: the usual rule of detectron2's evaluation, with its rounding (half up).
    """
    scale = short / min(size)
    if max(size) * scale > longest:
        scale = longest / max(size)
    return max(int(size[0] * scale + 0.5), 1), max(int(size[1] * scale + 0.5), 1)


class Maft:
    """The segmenter. See the module's text for use.

    Attributes:
        config: settings. clip: loaded weights. source: where masks come from.
        dtype: of the image tower ("float32" or "bfloat16"); masks and scores are float32.
        threshold: for `to_label_map`: a pixel that no mask covers is background.
        rounds: False; all labels compete in one softmax, however many.
    """

    threshold: float | None = 0.0
    rounds = False

    def __init__(
        self,
        clip: LoadedClip,
        source: ProposalSource,
        config: MaftConfig,
        *,
        dtype: str = "float32",
    ) -> None:
        if dtype not in ("float32", "bfloat16"):
            raise expected("dtype", "'float32' or 'bfloat16'", repr(dtype), "try 'float32'")
        self.clip, self.source, self.config, self.dtype = clip, source, config, dtype
        vision = clip.config.vision
        if vision.pool != "class":
            raise UserError(
                f"model: MAFT needs an image tower with a class token, {clip.config.name} pools by "
                f"{vision.pool!r}; use a CLIP such as ViT-B-16"
            )
        if config.ensemble_weight != 0 and not hasattr(source, "propose_scored"):
            raise UserError(
                f"ensemble_weight: {config.ensemble_weight} needs proposals that come with class "
                "scores, which this source does not give; set it to 0, or use a generator"
            )
        self.encoder = Encoder(
            VisionTransformer(vision, clip.config.embed_dim, jnp.dtype(dtype)),
            plan(config, vision), clip.preprocess.mean, clip.preprocess.std,
            config.pos_resample, config.pad_to, config.square_tokens,
        )  # fmt: skip

    @functools.cached_property
    def params(self) -> Params:
        """The image tower (tuned where the weights have one), the source's, the non-object row."""
        extra = self.clip.extras.get("maft", {})
        tuned = self.config.tower == "tuned" and "visual" in extra
        visual = extra["visual"] if tuned else self.clip.params["visual"]
        params = {"visual": visual, "source": self.source.params}
        if "non_object" in extra:
            params["non_object"] = extra["non_object"]
        return jax.tree.map(jnp.asarray, params)

    def classes(self, names: Sequence[str], background: Sequence[str] | None = None) -> MaftText:
        """Encodes a vocabulary once, on the host.

        Args:
            names: what to look for, each once.
            background: texts that compete in the softmax; what they win is background. None takes
                the configured ones, () none: then every covered pixel gets one of the names.
        """
        clip: Any = self.clip
        return maft_texts.build(self.config, clip, names, background)

    def segment(
        self,
        params: Params,
        image: UInt8[Array, "B H W 3"],
        text: MaftText,
        valid: Bool[Array, "B H W"] | None = None,
    ) -> Masks:
        """Segments a batch of images. With plain arrays it calls its own compiled form.

        Args:
            params: `self.params`.
            image: RGB bytes; smaller images sit at the top left of the canvas.
            text: from `classes`.
            valid: pixels that exist, a rectangle at the top left; None means all. Then images are
                neither resized to `short_edge` nor padded: give them at that size.

        Returns:
            Masks with scores Float[B M C + R]: the classes, then the R backgrounds.
        """
        check_shape(image, "B H W 3", "image", dtype="uint8", fix="give a batch of RGB bytes")
        run = self._segment if _traced(params, image, text, valid) else self._segment_compiled
        masks = run(params, image, text.anonymous(), valid)
        return dataclasses.replace(masks, scores=masks.scores[..., : text.count + text.rivals])

    def classify(
        self,
        params: Params,
        image: UInt8[Array, "B H W 3"],
        masks: Float[Array, "B M h w"],
        text: MaftText,
    ) -> Float[Array, "B M C"]:
        """Scores given masks: each one's softmax over the classes, then the backgrounds.

        Args:
            params: `self.params`. text: from `classes`.
            image: RGB bytes.
            masks: soft or 0/1 masks of the whole image, at any resolution, any number.
        """
        check_shape(image, "B H W 3", "image", dtype="uint8", fix="give a batch of RGB bytes")
        check_shape(masks, f"{image.shape[0]} M h w", "masks", fix="give one stack an image")
        run = self._classify if _traced(params, image, masks, text) else self._classify_compiled
        scores = run(params, image, masks, text.anonymous())
        return scores[..., : text.count + text.rivals]

    # The jitted edges of this method.
    @functools.cached_property
    def _segment_compiled(self) -> Any:
        return jax.jit(self._segment)

    @functools.cached_property
    def _classify_compiled(self) -> Any:
        return jax.jit(self._classify)

    def _segment(self, params: Params, image: Any, text: MaftText, valid: Any) -> Any:
        sizes, size = None, tuple(image.shape[1:3])
        work = image if valid is not None else self._short_edge(image)
        canvas, given, present = tuple(work.shape[1:3]), work, valid
        if valid is not None:
            sizes = jnp.stack([valid.any(axis=2).sum(axis=1), valid.any(axis=1).sum(axis=1)], 1)
        elif self.encoder.canvas(canvas) != canvas:
            given, present = self._padded(work)
        probs, exists, scored = self._propose(params, given, text, present)
        pixels = self.encoder.pixels(work, sizes)
        if sizes is not None:
            share = np.asarray(probs.shape[2:], np.float32) / np.asarray(canvas, np.float32)
            sizes = sizes * share
        embeddings = self.encoder.encode(params["visual"], pixels, probs, sizes)
        scores = self._scores(embeddings, text, scored, probs)
        probs = full_size(probs, canvas, tuple(given.shape[1:3]))
        probs = full_size(probs, size, size)
        if valid is not None:
            probs = probs * valid[:, None]
        return Masks(probs, scores, exists)

    def _classify(self, params: Params, image: Any, masks: Any, text: MaftText) -> Any:
        work = self._short_edge(image)
        size = tuple(work.shape[1:3])
        canvas = self.encoder.canvas(size)
        if canvas != size:
            masks = resize(masks, size)
            masks = jnp.pad(
                masks, [(0, 0), (0, 0), *((0, b - a) for a, b in zip(size, canvas, strict=True))]
            )
        embeddings = self.encoder.encode(params["visual"], self.encoder.pixels(work), masks)
        return self._scores(embeddings, text, None, masks)

    def _short_edge(self, image: Any) -> Any:
        size, short = tuple(image.shape[1:3]), self.encoder.plan.short_edge
        target = short_edge_size(size, short, LONGEST_EDGE) if short else size
        if target == size:
            return image
        return resize_bytes(jnp.asarray(image), byte_pair(size, target, "bilinear"))

    def _padded(self, work: Any) -> tuple[Any, Any]:
        height, width = self.encoder.canvas(tuple(work.shape[1:3]))
        more = [(0, height - work.shape[1]), (0, width - work.shape[2])]
        present = jnp.pad(jnp.ones(work.shape[:3], bool), [(0, 0), *more])
        return jnp.pad(jnp.asarray(work), [(0, 0), *more, (0, 0)]), present

    def _propose(
        self, params: Params, image: Any, text: MaftText, valid: Any
    ) -> tuple[Array, Array, Array | None]:
        rows = jnp.asarray(text.rows)
        if "non_object" in params:
            extra = params["non_object"].reshape(1, -1)
            rows = jnp.concatenate([rows, extra / jnp.linalg.norm(extra)])
        if self.config.ensemble_weight == 0:
            return *self.source.propose(params["source"], image, rows, valid), None
        source: Any = self.source
        return source.propose_scored(params["source"], image, rows, valid)

    def _scores(self, embeddings: Any, text: MaftText, scored: Array | None, probs: Any) -> Array:
        scores = class_probabilities(
            embeddings, text.rows, temperature=self.config.temperature, valid=text.valid
        )
        if scored is None:
            return scores
        more = [(0, 0), (0, 0), (0, scores.shape[-1] - scored.shape[-1])]
        return ensemble(
            scores, jnp.pad(scored, more), weight=self.config.ensemble_weight, seen=text.seen,
            covers=(probs > 0.5).any(axis=(2, 3)),
        )  # fmt: skip


def _traced(*args: Any) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(args))


def load(
    model: str | os.PathLike[str] | LoadedClip,
    *,
    parity: str | None = None,
    dtype: str = "float32",
    **settings: Any,
) -> Maft:
    """Builds MAFT on given weights.

    Args:
        model: a name, a path, or a loaded CLIP. With a fine-tuned tower or a generator among its
            extra weights those are used.
        parity: "reference" for the published behaviour, see `maft_config.configure`.
        dtype: "float32" or "bfloat16".
        settings: fields of `MaftConfig`. Settings that the model folder recommends for MAFT come
            before them in line, and after `parity`.

    Raises:
        UserError: for unknown or impossible settings, or weights that cannot serve.
    """
    clip: Any = load_clip(model) if isinstance(model, str | os.PathLike) else model
    kept = {} if parity is not None else {
        **clip.extras_config.get("maft", {}), **clip.defaults.get("maft", {}),
    }  # fmt: skip
    fields = {f.name for f in dataclasses.fields(MaftConfig)}
    defaults = {name: value for name, value in kept.items() if name in fields}
    config = configure(parity=parity, **{**defaults, **settings})
    name = config.proposals
    if name == "auto":
        name = "generator" if "generator" in clip.extras.get("maft", {}) else "regions"
    source = load_source(name, clip, **dict(config.proposal_settings))
    return Maft(clip, source, config, dtype=dtype)

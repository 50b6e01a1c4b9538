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

from openseg_jax.errors import UserError, check_shape, unknown_name
from openseg_jax.methods import maft_texts
from openseg_jax.methods.base import check_dtype, is_traced, true_sizes
from openseg_jax.methods.maft_config import LONGEST_EDGE, MaftConfig, configure, plan
from openseg_jax.methods.maft_encoder import Encoder, full_size, short_edge_size
from openseg_jax.methods.maft_panoptic import Instance, Segment, instances, panoptic
from openseg_jax.methods.maft_scores import class_probabilities, ensemble
from openseg_jax.methods.maft_texts import MaftText, with_non_object
from openseg_jax.methods.proposals import ProposalSource, load_source
from openseg_jax.models.vit import VisionTransformer
from openseg_jax.ops.resize import resize
from openseg_jax.ops.resize_uint8 import byte_pair, resize_bytes
from openseg_jax.types import Array, Bool, Float, Int, Masks, Params, UInt8
from openseg_jax.weights.load import load_clip
from openseg_jax.weights.loaded import LoadedClip

__all__ = ["Maft", "load"]

BUCKETS = (16, 64, 256, 1024)
"""Numbers of masks that `Maft.classify` compiles for; more are classified so many at a time."""


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
        check_dtype(dtype)
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
            VisionTransformer(vision, clip.config.embed_dim, jnp.dtype(dtype), scan="index"),
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
        run = self._segment if is_traced(params, image, text, valid) else self._segment_compiled
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
        text, keep = text.anonymous(), text.count + text.rivals
        if is_traced(params, image, masks, text):
            return self._classify(params, image, self._inside(image, masks), text)[..., :keep]
        parts = []
        for start in range(0, masks.shape[1], BUCKETS[-1]):
            # Padded to one of few numbers, so that few programs are compiled. On NumPy arrays the
            # sampling stays on the host and reads no more of the masks than it needs.
            part = np.asarray(self._inside(image, masks[:, start : start + BUCKETS[-1]]))
            count = part.shape[1]
            room = next(size for size in BUCKETS if size >= count)
            part = np.pad(part, [(0, 0), (0, room - count), (0, 0)])
            scores = self._classify_compiled(params, image, part, text)
            parts.append(np.asarray(scores)[:, :count, :keep])
        return np.concatenate(parts, axis=1)

    def panoptic(
        self, masks: Masks, text: MaftText, *, place: int = 0, things: Sequence[str] | None = None
    ) -> tuple[Int[np.ndarray, "H W"], list[Segment]]:
        """Makes panoptic segments of one image's masks, see `maft_panoptic.panoptic`.

        Args:
            masks: from `segment`. text: from `classes`.
            place: of the image in the batch.
            things: names whose masks stay apart; the others are joined a class. None: all.

        Raises:
            UserError: for a thing that is not among the names.
        """
        return panoptic(
            np.asarray(masks.probs[place]), np.asarray(masks.scores)[place],
            np.asarray(masks.valid[place]), things=_indices(things, text), count=text.count,
            min_score=self.config.min_score, overlap=self.config.overlap,
        )  # fmt: skip

    def instances(
        self, masks: Masks, text: MaftText, *, place: int = 0, things: Sequence[str] | None = None
    ) -> list[Instance]:
        """Ranks the instances among one image's masks; arguments as for `panoptic`."""
        return instances(
            np.asarray(masks.probs[place]), np.asarray(masks.scores)[place],
            np.asarray(masks.valid[place]), things=_indices(things, text), count=text.count,
        )  # fmt: skip

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
            sizes = true_sizes(valid)
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

    def _inside(self, image: Any, masks: Any) -> Any:
        size = self._work_size(image)
        canvas = self.encoder.canvas(size)
        if canvas != size:
            masks = resize(masks, size)
            more = [(0, b - a) for a, b in zip(size, canvas, strict=True)]
            masks = jnp.pad(masks, [(0, 0), (0, 0), *more])
        return self.encoder.inside(masks)

    def _classify(self, params: Params, image: Any, inside: Any, text: MaftText) -> Any:
        pixels = self.encoder.pixels(self._short_edge(image))
        embeddings = self.encoder.encode_tokens(params["visual"], pixels, inside)
        return self._scores(embeddings, text, None, None)

    def _work_size(self, image: Any) -> tuple[int, int]:
        size, short = tuple(image.shape[1:3]), self.encoder.plan.short_edge
        return short_edge_size(size, short, LONGEST_EDGE) if short else size

    def _short_edge(self, image: Any) -> Any:
        size, target = tuple(image.shape[1:3]), self._work_size(image)
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
        rows = with_non_object(jnp.asarray(text.rows), params.get("non_object"))
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


def _indices(things: Sequence[str] | None, text: MaftText) -> list[int] | None:
    for name in things or ():
        if name not in text.names:
            unknown_name(name, text.names, "things")
    return None if things is None else [text.names.index(name) for name in things]


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
    clip = load_clip(model)
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

"""The recurrence: propose, prompt, classify, drop texts, until none is dropped.

One `step` serves two loops, whose results are equal up to rounding at a byte edge. `run_steps` is a
host loop: alive texts are gathered into a few bucket sizes, each of which compiles once.
`run_jitted` is one `lax.while_loop` over the whole vocabulary with an alive mask. In both, alive
texts come first and everything that costs work a text (pullbacks, prompts, the classifier's tower)
stops after the last alive one at run time (`car_proposals.chunked`), so dead texts are never paid
for.

Source: car.md §6.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from openseg_jax.methods.car_classifier import Classifier, scores
from openseg_jax.methods.car_config import CaRConfig
from openseg_jax.methods.car_geometry import Geometry
from openseg_jax.methods.car_proposals import Encoded, Proposer, chunked
from openseg_jax.methods.car_texts import CarText
from openseg_jax.models.variants import Preprocess
from openseg_jax.ops import boxes, visual_prompts
from openseg_jax.ops.cam import min_max
from openseg_jax.ops.resize import apply_matrices
from openseg_jax.ops.resize_uint8 import resize_bytes
from openseg_jax.types import Array, Bool, Float, Int, Params, UInt8

__all__ = ["Knobs", "Scene", "State", "Stepper", "keep_texts", "knobs", "run_jitted", "run_steps"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Knobs:
    """The thresholds as arrays: another value does not compile anything anew.

    Attributes:
        mask: η. confidence: θ. table: `ops.boxes.threshold_table` of λ.
    """

    mask: Float[Any, ""]
    confidence: Float[Any, ""]
    table: Int[Any, "256"]


def knobs(settings: CaRConfig) -> Knobs:
    """Takes the thresholds out of the settings."""
    return Knobs(
        mask=np.float32(settings.mask_threshold),
        confidence=np.float32(settings.confidence_threshold),
        table=boxes.threshold_table(settings.clipes_threshold),
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scene:
    """One image, encoded: everything of a step that does not depend on texts.

    Attributes:
        image: UInt8[H W 3], the canvas.
        outside: UInt8[H W 3], what shows outside of a prompt's mask.
        geometry: sizes and matrices.
        encoded: from the CAM's tower.
    """

    image: UInt8[Array, "H W 3"]
    outside: UInt8[Array, "H W 3"]
    geometry: Geometry
    encoded: Encoded


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """What the recurrence ends with.

    Attributes:
        maps: Float[K h w] in [0, 1], refined, of alive texts (0 elsewhere), on the patch grid.
        scores: Float[K], 0 for dropped texts.
        alive: Bool[K].
        steps: Int[], how many were run.
    """

    maps: Float[Array, "K h w"]
    scores: Float[Array, " K"]
    alive: Bool[Array, " K"]
    steps: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Stepper:
    """Both models and the settings: makes scenes and steps. All methods are pure.

    Attributes:
        proposer, classifier: the two sides.
        preprocess: of the CAM's and of the classifier's weights.
        image_chunk: prompted images encoded at once.
    """

    proposer: Proposer
    classifier: Classifier
    preprocess: tuple[Preprocess, Preprocess]
    image_chunk: int

    def scene(
        self, params: Params, image: UInt8[Array, "H W 3"], geometry: Geometry, *, joint: bool
    ) -> Scene:
        """Encodes an image: the CAM's tower, the affinity, and the prompts' background."""
        mean, std = self.preprocess[0].mean, self.preprocess[0].std
        pixels = self.proposer.pixels(image, geometry, mean, std)
        visual = params["cam"]["visual"]
        settings = self.proposer.settings
        return Scene(
            image=image,
            outside=visual_prompts.background(
                image, settings.visual_prompts, size=self._size(geometry),
                swapped_gray=settings.swapped_gray,
            ),
            geometry=geometry,
            encoded=self.proposer.encode(visual, pixels, geometry, joint=joint),
        )  # fmt: skip

    def _size(self, geometry: Geometry) -> tuple[Array, Array] | None:
        return (geometry.size[0], geometry.size[1]) if self.proposer.padded else None

    def full_size(self, geometry: Geometry, maps: Float[Array, "K h w"]) -> Float[Array, "K H W"]:
        """Brings maps to the size of the image: bilinear, half-pixel centres."""
        return apply_matrices(maps, geometry.up_rows, geometry.up_columns)

    def prompted(
        self, scene: Scene, maps: Float[Array, "K h w"], threshold: Float[Any, ""]
    ) -> tuple[UInt8[Array, "K H W 3"], Bool[Array, "K H W"]]:
        """Draws the prompt of every map; also returns the masks that it pointed at."""
        settings, size = self.proposer.settings, self._size(scene.geometry)
        full = self.full_size(scene.geometry, maps)
        # Rows beyond the true size are 0: `full_size` has no weights there.
        masks, use = visual_prompts.masks_from_maps(full, threshold)
        images = visual_prompts.draw_prompts(
            scene.image, masks, settings.visual_prompts, outside=scene.outside, use=use, size=size
        )
        return images, masks

    def classifier_pixels(
        self, geometry: Geometry, images: UInt8[Array, "K H W 3"]
    ) -> Float[Array, "K S S 3"]:
        """Resizes prompted images to the classifier's square and normalises them."""
        preprocess = self.preprocess[1]
        x = resize_bytes(images, geometry.classifier).astype(jnp.float32) / 255
        mean, std = jnp.asarray(preprocess.mean), jnp.asarray(preprocess.std)
        return (x - mean.astype(jnp.float32)) / std.astype(jnp.float32)

    def step(
        self,
        params: Params,
        scene: Scene,
        text: CarText,
        rows: Int[Array, " n"],
        count: Int[Array, ""],
        first: Bool[Array, ""],
        thresholds: Knobs,
        *,
        debug: bool = False,
    ) -> tuple[Float[Array, "n h w"], Float[Array, " n"], dict[str, Array]]:
        """Runs one step on the texts `rows[:count]`.

        Args:
            params: `{"cam": ..., "classifier": ...}`.
            scene: the encoded image.
            text: the vocabulary.
            rows: indices of texts, alive ones first; what follows `count` is padding.
            first: the first step of an image.
            thresholds: see `Knobs`.
            debug: also return what parity tests look at.

        Returns:
            Refined maps in [0, 1], scores, and the debug arrays (empty without `debug`).
        """
        settings, visual = self.proposer.settings, params["cam"]["visual"]
        alive = jnp.arange(rows.shape[0]) < count
        texts = jnp.asarray(text.cam)[rows]
        if settings.raw_names_first_step:
            texts = jnp.where(first, jnp.asarray(text.raw)[rows], texts)
        scale = jnp.exp(params["cam"]["logit_scale"])
        raw = self.proposer.maps(
            visual, scale, scene.encoded, texts, jnp.asarray(text.background), alive, count
        )
        spread, _ = self.proposer.refine(scene.encoded, raw, scene.geometry, thresholds.table)
        start = self.proposer.prefix
        valid = scene.encoded.patches[start:] if self.proposer.padded else None
        grid = (rows.shape[0], *self.proposer.plan.grid)
        maps = jnp.where(alive[:, None], min_max(spread, valid), 0).reshape(grid)

        def classify(part: Float[Array, "k h w"]) -> Float[Array, "k E"]:
            images, _ = self.prompted(scene, part, thresholds.mask)
            pixels = self.classifier_pixels(scene.geometry, images)
            return self.classifier.embed(params["classifier"]["visual"], pixels)

        images = chunked(classify, maps, count, self.image_chunk)
        scale = jnp.exp(params["classifier"]["logit_scale"])
        later_rule = settings.score_rule
        first_rule = later_rule if text.templated else "plain"
        if text.later is None:
            later_rule = first_rule
        embeddings = jnp.asarray(text.first)[:, rows]
        own, matrix = scores(images, embeddings, alive, scale, rule=first_rule)
        if text.later is not None:
            later = scores(images, jnp.asarray(text.later)[:, rows], alive, scale, rule=later_rule)
            own, matrix = (
                jnp.where(first, a, b) for a, b in zip((own, matrix), later, strict=True)
            )
        extra = {}
        if debug:
            extra = {"cam_norm": raw.reshape(grid), "refined": spread.reshape(grid)}
            extra |= {"images": images, "matrix": matrix}
        return maps, own, extra


def keep_texts(
    own: Float[Array, " n"], alive: Bool[Array, " n"], threshold: Float[Any, ""]
) -> Bool[Array, " n"]:
    """Keeps the texts that score above the threshold; where none does, the best one."""
    kept = alive & (own > threshold)
    best = jnp.argmax(jnp.where(alive, own, -1.0))
    only = alive & (jnp.arange(own.shape[0]) == best)
    return jnp.where(kept.any(), kept, only)


def run_jitted(
    stepper: Stepper, params: Params, scene: Scene, text: CarText, thresholds: Knobs
) -> State:
    """Runs the recurrence as one `lax.while_loop` of fixed shapes: jittable, vmappable."""
    settings = stepper.proposer.settings
    alive = jnp.asarray(text.valid)
    total = alive.shape[0]
    maps = jnp.zeros((total, *stepper.proposer.plan.grid), jnp.float32)
    last = jnp.int32(0) if settings.raw_names_first_step else alive.sum(dtype=jnp.int32)
    start = State(maps, jnp.zeros(total, jnp.float32), alive, jnp.int32(0))

    def body(carry: tuple[State, Array, Array]) -> tuple[State, Array, Array]:
        state, last, _ = carry
        count = state.alive.sum(dtype=jnp.int32)
        rows = jnp.argsort(~state.alive, stable=True)
        maps, own, _ = stepper.step(params, scene, text, rows, count, state.steps == 0, thresholds)
        there = jnp.arange(total) < count
        kept = keep_texts(own, there, thresholds.confidence)
        number = kept.sum(dtype=jnp.int32)
        new = State(
            maps=jnp.zeros_like(maps).at[rows].set(maps),
            scores=jnp.zeros_like(own).at[rows].set(jnp.where(kept, own, 0)),
            alive=jnp.zeros_like(kept).at[rows].set(kept),
            steps=state.steps + 1,
        )
        return new, number, number == last

    def going(carry: tuple[State, Array, Array]) -> Array:
        return ~carry[2]

    return lax.while_loop(going, body, (start, last, jnp.bool_(False)))[0]


def bucket(count: int, total: int) -> int:
    """Chooses the rows of a step: 64 times a power of 8, at most the vocabulary.

    Dead rows within a bucket cost a few products of K vectors with an L×L matrix. A finer ladder
    would save less than what compiling its rungs takes.
    """
    size = 64
    while size < count:
        size *= 8
    return min(size, total)


def run_steps(
    step: Callable[..., Any],
    settings: CaRConfig,
    params: Params,
    scene: Scene,
    text: CarText,
    *,
    observe: Callable[[dict[str, Any]], None] | None = None,
) -> State:
    """Runs the recurrence as a host loop over jitted steps, one compile a bucket.

    Args:
        step: a jitted `Stepper.step`.
        settings: `CaRConfig`.
        params, scene, text: as in `Stepper.step`.
        observe: called after each step with what happened; needs a step with `debug`.

    Returns:
        The same as `run_jitted`, up to rounding at a byte edge, as NumPy arrays.
    """
    alive = np.flatnonzero(np.asarray(text.valid))
    total = text.count
    thresholds = knobs(settings)
    last, steps = (0 if settings.raw_names_first_step else len(alive)), 0
    while True:
        count = len(alive)
        size = bucket(count, total)
        rows = np.zeros(size, np.int32)
        rows[:count] = alive
        maps, own, extra = step(
            params, scene, text, rows, np.int32(count), np.bool_(steps == 0), thresholds
        )
        maps, own = np.asarray(maps)[:count], np.asarray(own)[:count]
        kept = own > thresholds.confidence
        if not kept.any():
            kept[own.argmax()] = True
        steps += 1
        if observe is not None:
            observe(
                {"alive": alive, "maps": maps, "scores": own, "kept": alive[kept]}
                | {name: np.asarray(x) for name, x in extra.items()}
            )
        if kept.sum() == last:
            break
        last, alive = int(kept.sum()), alive[kept]
    out_maps = np.zeros((total, *maps.shape[1:]), np.float32)
    out_scores, out_alive = np.zeros(total, np.float32), np.zeros(total, bool)
    out_maps[alive] = maps
    out_scores[alive], out_alive[alive] = np.where(kept, own, 0), kept
    return State(out_maps, out_scores, out_alive, np.int32(steps))

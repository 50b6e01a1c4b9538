"""CaR, "CLIP as RNN": segments by free text with frozen CLIPs and no training.

    car = load_segmenter("car", "ViT-B-16", classifier="ViT-L-14")
    text = car.classes(["zebra", "grass"])
    result = car.predict(image, text)          # one image, as a host loop: the fast form
    labels = result.label_map()                # 0 background, i + 1 names[i]
    masks = jax.jit(car.segment)(car.params, images, text, valid)   # the pure form, e.g. on a TPU

Source: Sun et al., "CLIP as RNN: Segment Countless Visual Concepts without Training Endeavor",
CVPR 2024. docs/car.md lists where the default differs from the published code.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.errors import UserError, check_shape
from openseg_jax.methods import car_geometry, car_refine, car_texts
from openseg_jax.methods.base import check_dtype, is_traced, true_size
from openseg_jax.methods.car_classifier import Classifier
from openseg_jax.methods.car_config import CaRConfig, configure
from openseg_jax.methods.car_finish import finish
from openseg_jax.methods.car_geometry import Geometry
from openseg_jax.methods.car_loop import Scene, State, Stepper, knobs, run_jitted, run_steps
from openseg_jax.methods.car_proposals import Proposer
from openseg_jax.methods.car_refine import MaskSource
from openseg_jax.methods.car_texts import CarText
from openseg_jax.ops.masks import paint_labels
from openseg_jax.ops.platform import target
from openseg_jax.types import Array, Bool, Float, Int, Masks, Params, UInt8
from openseg_jax.weights.load import load_clip
from openseg_jax.weights.loaded import LoadedClip

__all__ = ["LOOK", "CaR", "CarResult", "load"]

# text_chunk, image_chunk: small pieces stay in a CPU's cache, large ones fill other devices.
_CHUNKS = {"cpu": (4, 4), "other": (8, 8)}


LOOK = 8
"""`predict(look=…)` draws so many rows at once."""


# The jitted edges of this method. A Stepper is a hashable description, so all segmenters of equal
# settings share what was compiled.
@functools.partial(jax.jit, static_argnames=("stepper", "joint"))
def _scene(
    stepper: Stepper, params: Params, image: Array, geometry: Geometry, *, joint: bool
) -> Scene:
    return stepper.scene(params, image, geometry, joint=joint)


@functools.partial(jax.jit, static_argnames=("stepper", "debug"))
def _step(stepper: Stepper, *args: Any, debug: bool = False) -> Any:
    return stepper.step(*args, debug=debug)


@functools.partial(jax.jit, static_argnames="stepper")
def _look(stepper: Stepper, scene: Scene, maps: Array, threshold: Array) -> Any:
    images, masks = stepper.prompted(scene, maps, threshold)
    return stepper.full_size(scene.geometry, maps), masks, images


@dataclasses.dataclass(frozen=True)
class CarResult:
    """What CaR found in one image.

    Attributes:
        masks: Bool[K H W], empty for dropped texts.
        scores: Float[K], 0 for dropped texts.
        alive: Bool[K], texts that survived.
        maps: Float[K h w] in [0, 1], the last activation maps on the patch grid.
        steps: how many the recurrence took.
        names: the K texts.
    """

    masks: Bool[np.ndarray, "K H W"]
    scores: Float[np.ndarray, " K"]
    alive: Bool[np.ndarray, " K"]
    maps: Float[np.ndarray, "K h w"]
    steps: int
    names: tuple[str, ...]

    def label_map(
        self, ids: Sequence[int] | None = None, base: Int[np.ndarray, "H W"] | None = None
    ) -> Int[np.ndarray, "H W"]:
        """Paints the masks, best score on top: 0 background, id + 1 each text.

        Args:
            ids: class of each text; None means 0, 1, 2, …
            base: a label map to paint on.
        """
        where = None if ids is None else np.asarray(ids, np.int32)
        return np.asarray(paint_labels(self.masks, self.scores, where, base=base))


class CaR:
    """The segmenter. See the module's text for use.

    Attributes:
        config: settings.
        cam, classifier: loaded weights.
        dtype: of both towers ("float32" or "bfloat16"); maps, scores and the CRF are float32.
        masks: where the masks come from that replace its own in the end, or None; given, or a SAM
            by `config.sam`. `segment` then cannot run under `jax.jit`.
        params: of both image towers, on the default device.
    """

    def __init__(
        self, cam: LoadedClip, classifier: LoadedClip, config: CaRConfig, *,
        dtype: str = "float32", masks: MaskSource | None = None,
    ) -> None:  # fmt: skip
        check_dtype(dtype)
        self.cam, self.classifier, self.config, self.dtype = cam, classifier, config, dtype
        self.masks = car_refine.source_of(config, masks)

    @property
    def host_only(self) -> bool:
        """Whether `segment` needs plain arrays, because masks are matched on the host."""
        return self.masks is not None

    @functools.cached_property
    def params(self) -> Params:
        """Parameters of both image towers; one copy where both are the same weights."""
        cam = self._tower(self.cam)
        same = self.classifier is self.cam
        return {"cam": cam, "classifier": cam if same else self._tower(self.classifier)}

    def _tower(self, loaded: LoadedClip) -> Params:
        part = {name: loaded.params[name] for name in ("visual", "logit_scale")}
        return jax.tree.map(jnp.asarray, part)

    def classes(self, names: Sequence[str], background: Sequence[str] | None = None) -> CarText:
        """Encodes a vocabulary with all templates, once; embeddings are what `segment` takes.

        Args:
            names: what to look for, each once.
            background: texts that compete in the maps and are never found; None takes the
                configured ones, () none.
        """
        cam: Any = self.cam
        classifier: Any = self.classifier
        return car_texts.build(self.config, cam, classifier, names, background)

    def stepper(self, canvas: tuple[int, int], *, padded: bool) -> Stepper:
        """Describes the computation for one canvas; a static argument of the jitted edges."""
        settings, platform = self.config, target()
        text_chunk, image_chunk = _CHUNKS["cpu" if platform == "cpu" else "other"]
        plan = car_geometry.plan(
            canvas, self.cam.config.vision, self.classifier.config.vision,
            self.classifier.preprocess, pad_to_16=settings.pad_to_16,
            convention=settings.pos_resample, squash=settings.classifier_fit == "squash",
        )  # fmt: skip
        dtype, static = jnp.dtype(self.dtype), settings.static()
        return Stepper(
            proposer=Proposer(
                clip=self.cam.config, settings=static, plan=plan, dtype=dtype, padded=padded,
                by_head=platform == "cpu", text_chunk=settings.text_chunk or text_chunk,
            ),
            classifier=Classifier(self.classifier.config, static, dtype),
            preprocess=(self.cam.preprocess, self.classifier.preprocess),
            image_chunk=settings.image_chunk or image_chunk,
        )  # fmt: skip

    def joint(self, text: CarText) -> bool:
        """Says whether all E joint axes are cheaper to pull back than the texts one by one."""
        # An export leaves the number open, and pulls them back one by one.
        count: Any = text.count
        return isinstance(count, int) and count >= self.cam.config.embed_dim

    def predict(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        text: CarText | Sequence[str],
        *,
        observe: Callable[[dict[str, Any]], None] | None = None,
        look: Callable[[dict[str, Any]], Sequence[int]] | None = None,
    ) -> CarResult:
        """Segments one image; the recurrence is a host loop over jitted steps.

        Args:
            image: RGB bytes of any size.
            text: from `classes`, or names.
            observe: called after every step with its arrays (for tests and reports).
            look: picks the rows of a step that `observe` sees drawn, see `car_trace`; it then runs
                the same programs as without. None draws all, and adds what parity tests need.
        """
        check_shape(image, "H W 3", "image", dtype="uint8", fix="give RGB bytes, channels last")
        if not isinstance(text, CarText):
            text = self.classes(text)
        image, step = np.asarray(image), max(self.config.canvas, 1)
        size = image.shape[:2]
        more = [(0, -n % step) for n in size]
        canvas = np.pad(image, (*more, (0, 0)))
        result = self._run(self.params, canvas, size, text, observe, look)
        return dataclasses.replace(result, masks=result.masks[:, : size[0], : size[1]])

    def _run(
        self,
        params: Params,
        image: np.ndarray,
        size: tuple[int, int],
        text: CarText,
        observe: Callable[[dict[str, Any]], None] | None,
        look: Callable[[dict[str, Any]], Sequence[int]] | None = None,
    ) -> CarResult:
        config, canvas = self.config, image.shape[:2]
        stepper = self.stepper(canvas, padded=tuple(size) != tuple(canvas))
        geometry = car_geometry.exact(stepper.proposer.plan, tuple(size))
        scene = _scene(stepper, params, image, geometry, joint=self.joint(text))
        step = functools.partial(_step, stepper, debug=observe is not None and look is None)
        watch = None
        if observe is not None:
            watch = functools.partial(_watch, observe, look, stepper, scene, config)
        padded = car_texts.bucketed(text)
        state = run_steps(step, config, params, scene, padded, observe=watch)
        (alive,) = np.nonzero(state.alive)
        full = _full_size(state.maps[alive], geometry)
        valid = None
        if stepper.proposer.padded:
            valid = np.zeros(canvas, bool)
            valid[: size[0], : size[1]] = True
        every = np.ones(len(alive), bool)
        kept, scores = finish(image, full, state.scores[alive], every, config, valid=valid)
        if self.masks is not None:
            inside = np.s_[: size[0], : size[1]]
            found = np.array(kept)
            found[:, *inside] = car_refine.rematch(
                image[inside], found[:, *inside], self.masks, config
            )
            kept = found
        masks = np.zeros((text.count, *canvas), bool)
        out = np.zeros(text.count, np.float32)
        masks[alive], out[alive] = np.asarray(kept), np.asarray(scores)
        living, maps = state.alive[: text.count], state.maps[: text.count]
        return CarResult(masks, out, living, maps, int(state.steps), text.names)

    def segment(
        self,
        params: Params,
        image: UInt8[Array, "B H W 3"],
        text: CarText,
        valid: Bool[Array, "B H W"] | None = None,
    ) -> Masks:
        """Segments a batch of images.

        Under `jax.jit` (any argument traced) everything runs on the device with fixed shapes. With
        plain arrays it is a loop over images of the host form. The two agree up to rounding at a
        byte edge: a value that lies on the border between two bytes, of a prompted image or of a
        threshold, may fall on either side.

        Args:
            params: `self.params`.
            image: RGB bytes; smaller images sit at the top left of the canvas.
            text: from `classes`.
            valid: pixels that exist; None means all.

        Returns:
            Masks with one mask and one score a text. Masks are 0 or 1: each pixel is decided.
            They overlap only with `pixels="separate"`, or where a source replaced them.

        Raises:
            UserError: under `jax.jit` with a mask source, which works on the host.
        """
        check_shape(image, "B H W 3", "image", dtype="uint8", fix="give a batch of RGB bytes")
        if is_traced(params, image, text, valid):
            return self._segment_traced(params, image, text, valid)
        rows = []
        for i in range(image.shape[0]):
            size = (image.shape[1], image.shape[2])
            if valid is not None:
                size = true_size(np.asarray(valid[i]))
            rows.append(self._run(params, np.asarray(image[i]), size, text, None))
        return Masks(
            probs=jnp.asarray(np.stack([r.masks for r in rows]), jnp.float32),
            scores=jnp.asarray(np.stack([r.scores for r in rows])),
            valid=jnp.asarray(np.stack([r.alive for r in rows])),
        )

    def _segment_traced(self, params: Params, image: Any, text: CarText, valid: Any) -> Masks:
        if self.host_only:
            raise UserError(
                "sam: masks are matched on the host, not under jax.jit; call segment with plain "
                "arrays, or build the segmenter without sam and masks"
            )
        stepper = self.stepper(image.shape[1:3], padded=valid is not None)
        plan, thresholds = stepper.proposer.plan, knobs(self.config)

        def one(inputs: tuple[Any, Any]) -> tuple[Any, Any, Any]:
            image, valid = inputs
            geometry = car_geometry.exact(plan)
            if valid is not None:
                sides = [valid.any(axis=1).sum(), valid.any(axis=0).sum()]
                geometry = car_geometry.measure(plan, jnp.stack(sides).astype(jnp.int32))
            scene = stepper.scene(params, image, geometry, joint=self.joint(text))
            state: State = run_jitted(stepper, params, scene, text, thresholds)
            full = stepper.full_size(geometry, state.maps)
            masks, scores = finish(
                image, full, state.scores, state.alive, self.config, valid=valid, backend="device"
            )
            return masks.astype(jnp.float32), scores, state.alive

        probs, scores, alive = jax.lax.map(one, (image, valid))
        return Masks(probs=probs, scores=scores, valid=alive)


def _full_size(maps: Float[np.ndarray, "K h w"], geometry: Geometry) -> np.ndarray:
    # On the host: no compile for every number of survivors.
    wide = maps @ np.asarray(geometry.up_columns).T
    return np.asarray(geometry.up_rows) @ wide


def _watch(
    observe: Callable[[dict[str, Any]], None],
    look: Callable[[dict[str, Any]], Sequence[int]] | None,
    stepper: Stepper,
    scene: Scene,
    config: CaRConfig,
    event: dict[str, Any],
) -> None:
    """Adds what a step saw at full size to its event, and hands it on."""
    maps = event["maps"]
    rows = np.arange(len(maps)) if look is None else np.asarray(look(event), np.int32)
    if look is not None:
        # Always of one size: one more program a canvas, whatever is looked at.
        more = -len(rows) % LOOK
        maps = np.pad(maps[rows], [(0, more), (0, 0), (0, 0)])
    full, masks, images = _look(stepper, scene, maps, np.float32(config.mask_threshold))
    seen = {"full": full, "masks": masks, "prompted": images}
    drawn = {name: np.asarray(x)[: len(rows)] for name, x in seen.items()}
    observe(event | {"rows": rows} | drawn)


def load(
    model: str | os.PathLike[str] | LoadedClip,
    *,
    classifier: str | os.PathLike[str] | LoadedClip | None = None,
    parity: str | None = None,
    dtype: str = "float32",
    masks: MaskSource | None = None,
    **settings: Any,
) -> CaR:
    """Builds CaR on given weights.

    Args:
        model: the CAM's weights: a name, a path, or a loaded CLIP.
        classifier: the classifier's weights; None takes the same.
        parity: "reference" for the published behaviour, see `car_config.configure`.
        dtype: "float32" or "bfloat16".
        masks: a function from a picture UInt8[H W 3] to masks of it Bool[N H W], any number. Masks
            of texts are replaced by those that agree with them; `sam` is the name of such a source.
        settings: fields of `CaRConfig`. Settings that the model folder recommends for CaR come
            before them in line, and after `parity`.
    """
    cam = load_clip(model)
    same = isinstance(classifier, str | os.PathLike) and classifier == model
    second = cam if classifier is None or same else load_clip(classifier)
    defaults = dict(cam.defaults.get("car", {})) if parity is None else {}
    config = configure(parity=parity, **{**defaults, **settings})
    return CaR(cam, second, config, dtype=dtype, masks=masks)

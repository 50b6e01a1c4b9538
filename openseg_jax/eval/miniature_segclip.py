"""SegCLIP on the miniature world, beside what the frozen CLIP does by itself.

The 24 things are the foreground and all stuff is background. Every method is given all 24 names for
every scene, and the names of the six kinds of stuff too, as texts that may take pixels and are not
reported, where that does better on validation. Reported is the mean IoU over the things:

- "segclip": regions labelled by text, as the published inference does;
- "patch_text": no training: the frozen CLIP's dense tokens compared with the same texts;
- "patch_text_top": the same with SegCLIP's rule that a picture holds its five likeliest classes;
- all background: says background everywhere; its mIoU counts the background as a class.

Thresholds, whether stuff competes, the windows and the rivals' temperature are tuned on the
validation stream, for each side by itself: a CLIP that looks through overlapping windows of an
enlarged picture is a far stronger rival than one that looks once.
How well patches are grouped is measured apart from how groups are named: an oracle gives each group
the class that most of its pixels have ("segclip_oracle"). The rival there is k-means on the frozen
tokens, with as many groups ("kmeans_oracle").

Numbers are about the miniature world only; they say nothing about photographs.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.special import softmax

from openseg_jax.eval.confusion import confusion_matrix, metrics
from openseg_jax.eval.gates import embed_images, in_chunks
from openseg_jax.eval.miniature_clip_dense import dense_cosines
from openseg_jax.methods.clip_dense import load as load_dense
from openseg_jax.methods.segclip import Reader
from openseg_jax.methods.segclip import load as load_method
from openseg_jax.methods.windows import cut_windows
from openseg_jax.miniature.captions import templates
from openseg_jax.miniature.streams import Scene
from openseg_jax.miniature.world import STUFF, THINGS
from openseg_jax.models.clip import CLIP, normalize
from openseg_jax.models.preprocess import fit_image, scale_pixels
from openseg_jax.models.variants import CLIPConfig, Preprocess
from openseg_jax.ops.resize import half_pixel
from openseg_jax.text.classifier import text_classifier
from openseg_jax.types import Array, Float, Int, Params, UInt8
from openseg_jax.weights.loaded import LoadedClip

CLASSES = len(THINGS) + 1  # 0 is everything that is no thing
TEMPERATURES = (10.0, 20.0, 40.0, 100.0, 200.0)
THRESHOLDS = 24  # that tuning tries: quantiles of the pixels' best scores
TOP = 5  # classes of a picture in SegCLIP's rule
WINDOWS = (1.0, 2.0, 2.5)  # short sides that tuning tries, in windows; above 1 they overlap by half
CHUNK = 25  # pictures at a time


# Pictures to groups of pixels.
Grouper = Callable[[UInt8[np.ndarray, "B S S 3"]], Int[np.ndarray, "B S S"]]


def things_only(one: Scene) -> Int[np.ndarray, "S S"]:
    """Returns the truth with all stuff as background: 0, or the thing's id from 1."""
    return np.where(one.semantic <= len(THINGS), one.semantic, 0)


def paint(scores: Float[np.ndarray, "S S C"], threshold: float) -> Int[np.ndarray, "S S"]:
    """Labels each pixel with its best class, and with 0 where that scores below the threshold.

    What stuff wins, behind the things, is 0 too. The best score of a picture always passes: every
    scene shows something.
    """
    best, winner = scores.max(axis=-1), scores.argmax(axis=-1) + 1
    return np.where((best < min(threshold, best.max())) | (winner >= CLASSES), 0, winner)


def matrices(
    truths: Sequence[Int[np.ndarray, "S S"]], labels: Sequence[Int[np.ndarray, "S S"]]
) -> Int[np.ndarray, "n C C"]:
    """Counts a confusion matrix for each scene."""
    return np.stack(
        [confusion_matrix(t, p, CLASSES, ignore=None) for t, p in zip(truths, labels, strict=True)]
    )


def foreground(matrix: Int[np.ndarray, "C C"]) -> float:
    """Computes the mean IoU over the things in the ground truth, [0, 1]."""
    measured = metrics(matrix)
    there = measured.truth[1:] > 0
    return float(np.nan_to_num(measured.iou[1:][there]).mean()) if there.any() else float("nan")


def all_background(truths: Sequence[Int[np.ndarray, "S S"]]) -> float:
    """Computes the mIoU, background included, of saying background everywhere."""
    labels = [np.zeros_like(truth) for truth in truths]
    return metrics(matrices(truths, labels).sum(0)).miou["gt"]


class PatchText:
    """The frozen rival: dense tokens of a CLIP against the class names.

    Attributes:
        temperature: of the softmax over the classes. top: classes that a picture may hold, those
            that its class token resembles most; None for all.
        stuff: whether the names of stuff compete.
    """

    def __init__(self, loaded: LoadedClip, temperature: float = 100.0, top: int | None = None):
        self.loaded, self.temperature, self.top, self.stuff = loaded, temperature, top, False
        self.text = text_classifier(loaded, (*THINGS, *STUFF), templates())
        self._params = jax.tree.map(jnp.asarray, loaded.params)
        self._dense = {
            n: load_dense(loaded, variant="plain", **window_sizes(loaded, n)) for n in WINDOWS
        }

    def tuned(self, temperature: float, top: int | None, stuff: bool) -> PatchText:
        """Returns the same with other settings."""
        other = copy.copy(self)
        other.temperature, other.top, other.stuff = temperature, top, stuff
        return other

    def tokens(self, images: UInt8[np.ndarray, "B S S 3"]) -> Float[np.ndarray, "B h w E"]:
        """Encodes pictures as unit-length patch tokens."""
        rule, grid = self.loaded.preprocess, self.loaded.config.vision.grid
        pixels = np.stack([fit_image(image, rule) for image in images])
        run = functools.partial(_tokens(self.loaded.config, rule), self._params)
        return in_chunks(run, pixels, CHUNK).reshape(len(images), grid, grid, -1)

    def cosines(
        self, images: UInt8[np.ndarray, "B S S 3"], windows: float
    ) -> tuple[Float[np.ndarray, "B C"], Float[np.ndarray, "B S S C"]]:
        """Compares pictures and their pixels with the names of things, then of stuff.

        Args:
            images: of one size. windows: one of `WINDOWS`.
        """
        whole = embed_images(self.loaded, list(images), chunk=CHUNK)
        dense = self._dense[windows]
        run = functools.partial(dense_cosines, (dense.reader,), dense.params, self.text)
        (maps,) = in_chunks(run, images, CHUNK)
        return whole @ self.text.T, maps.transpose(0, 2, 3, 1)

    def heat(
        self, cosines: tuple[Float[np.ndarray, "B C"], Float[np.ndarray, "B S S C"]]
    ) -> Float[np.ndarray, "B S S C"]:
        """Turns cosines into scores in [0, 1]."""
        whole, dense = cosines
        if not self.stuff:
            whole, dense = whole[..., : len(THINGS)], dense[..., : len(THINGS)]
        scores = softmax(dense * self.temperature, axis=-1)
        if self.top is None:
            return scores
        least = np.sort(whole, axis=-1)[:, -self.top, None]
        kept = (whole >= least)[:, None, None]
        return scores * softmax(np.where(kept, dense * self.temperature, -np.inf), axis=-1)


def window_sizes(loaded: LoadedClip, windows: float) -> dict[str, Any]:
    """Returns the settings of windows of a model's own size in a picture of that many windows."""
    crop = loaded.config.vision.image_size
    stride = crop if windows == 1.0 else crop // 2
    return {"crop": crop, "stride": stride, "short_side": int(crop * windows)}


# A named edge, as the one below: jitted once for each architecture.
@functools.lru_cache(maxsize=2)
def _tokens(config: CLIPConfig, rule: Preprocess) -> Callable[..., Array]:
    clip = CLIP(config)

    def encode(params: Params, image: UInt8[Array, "B S S 3"]) -> Array:
        pixels = scale_pixels(image, rule)
        patches: Any = clip.apply({"params": params}, pixels, method=CLIP.encode_patches)
        return normalize(patches)

    return jax.jit(encode)


class RegionText:
    """SegCLIP, with scores in place of labels.

    Attributes:
        methods: the segmenter, told of no threshold, by `WINDOWS`. method: with one window.
        texts: the things, without and with stuff.
    """

    def __init__(self, loaded: LoadedClip) -> None:
        given: dict[str, Any] = {"bg_threshold": None, "templates": tuple(templates())}
        self.methods = {n: load_method(loaded, **given, **window_sizes(loaded, n)) for n in WINDOWS}
        self.method = self.methods[1.0]
        self.texts = [self.method.classes(THINGS, b) for b in ([], STUFF)]

    def __call__(
        self, images: UInt8[np.ndarray, "B S S 3"], stuff: bool, windows: float
    ) -> Float[np.ndarray, "B S S C"]:
        method, text = self.methods[windows], self.texts[stuff]
        dense = in_chunks(lambda x: method.dense(method.params, x, text), images, CHUNK)
        return dense[:, 1:].transpose(0, 2, 3, 1)

    def groups(self, images: UInt8[np.ndarray, "B S S 3"]) -> Int[np.ndarray, "B S S"]:
        """Returns each pixel's region: of a square picture, which is one window."""
        reader, size = self.method.reader, images.shape[1]
        soft = in_chunks(lambda x: _soft(reader, self.method.params, x), images, CHUNK)
        grid = int(soft.shape[-1] ** 0.5)
        maps = soft.reshape(*soft.shape[:2], grid, grid).transpose(0, 2, 3, 1)
        return enlarge(maps, size).argmax(axis=-1)


# A named edge.
@functools.partial(jax.jit, static_argnames="reader")
def _soft(reader: Reader, params: Params, images: UInt8[Array, "B S S 3"]) -> Array:
    return reader.encode(params, cut_windows(reader.plan, images)[:, 0])[0].grouping.soft


def kmeans_groups(rival: PatchText, count: int) -> Grouper:
    """Makes the rival grouping: k-means on the frozen tokens of each picture.

    It starts from patches that lie far from one another, so that nothing is left to chance.

    Args:
        rival: encodes the patches.
        count: groups a picture.
    """

    def group(images: UInt8[np.ndarray, "B S S 3"]) -> Int[np.ndarray, "B S S"]:
        out = []
        for rows in rival.tokens(images):
            flat = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
            start = far_apart(flat, count)
            # A group may end up empty; scipy would warn of it.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                _, found = kmeans2(flat, start, minit="matrix")
            maps = np.eye(count)[found].reshape(*rows.shape[:2], count)
            out.append(enlarge(maps[None], images.shape[1])[0].argmax(axis=-1))
        return np.stack(out)

    return group


def far_apart(points: Float[np.ndarray, "n D"], count: int) -> Float[np.ndarray, "count D"]:
    """Picks points one by one, each the farthest from those before; the first from the mean."""
    chosen = [int(np.square(points - points.mean(axis=0)).sum(axis=1).argmax())]
    distance = np.full(len(points), np.inf)
    while len(chosen) < count:
        away = np.square(points - points[chosen[-1]]).sum(axis=1)
        distance = np.minimum(distance, away)
        chosen.append(int(distance.argmax()))
    return points[chosen]


def oracle_labels(
    groups: Int[np.ndarray, "S S"], truth: Int[np.ndarray, "S S"]
) -> Int[np.ndarray, "S S"]:
    """Gives each group the class that most of its pixels have."""
    counts = np.zeros((int(groups.max()) + 1, CLASSES), np.int64)
    np.add.at(counts, (groups.ravel(), truth.ravel()), 1)
    return counts.argmax(axis=1)[groups]


def enlarge(maps: Float[np.ndarray, "B h w C"], size: int) -> Float[np.ndarray, "B S S C"]:
    """Resizes maps bilinearly (half-pixel centres, no antialias)."""
    rows = half_pixel(maps.shape[1], size).astype(np.float32)
    columns = half_pixel(maps.shape[2], size).astype(np.float32)
    tall = np.tensordot(rows, maps.astype(np.float32), (1, 1))  # Y B w C
    return np.tensordot(columns, tall, (1, 2)).transpose(2, 1, 0, 3)  # X Y B C

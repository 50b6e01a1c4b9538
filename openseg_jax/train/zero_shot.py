"""Zero-shot classification while training: does the model still know, or know more?

Preparation is inference's: whole pictures by the rule of the weights, class names in templates.
Every process reads its rows of each batch; counts are sums of whole numbers over all devices.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from openseg_jax.errors import UserError, expected
from openseg_jax.inputs.class_folder import ClassFolder
from openseg_jax.miniature.streams import crop, scene
from openseg_jax.miniature.world import THINGS
from openseg_jax.models.clip import CLIP, normalize
from openseg_jax.models.preprocess import fit_image, scale_pixels
from openseg_jax.models.variants import CLIPConfig, Preprocess
from openseg_jax.text.classifier import encode_names
from openseg_jax.text.prompts import templates
from openseg_jax.text.tokenizer import Tokenizer
from openseg_jax.train.average import averaged_params
from openseg_jax.train.sharding import make_mesh, put_batch, put_whole, rows_here, to_host
from openseg_jax.train.state import Config, TrainState
from openseg_jax.types import Array, Bool, Float, Int, Params, UInt8
from openseg_jax.weights.loaded import LoadedClip

Evaluator = Callable[[Params], dict[str, float]]
# (parameters, UInt8[B S S 3]) -> unit-length embeddings, float32[B E]
Embed = Callable[[Params, Array], Array]

TOP = 5
_MINIATURE = "miniature"
_SCENES, _SCENE_SIZE = 400, 96
# Rows of a batch on each device: enough to keep one busy, few enough for any that trains.
_ROWS = 64
_AHEAD = 2


class Pictures(Protocol):
    """Labelled pictures of any shape."""

    names: Sequence[str]

    def __len__(self) -> int:
        """Counts the pictures."""
        ...

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "H W 3"], int]:
        """Returns a picture and the number of its class."""
        ...


class MiniatureCrops:
    """Cropped things of the miniature world, those that `openseg gates` asks about.

    Args:
        stream: "val" to choose by, "test" for numbers to report.
        seed: which world.
        limit: crops at most; 0 takes those of 400 scenes.
    """

    def __init__(self, stream: str = "val", seed: int = 0, limit: int = 0) -> None:
        self.names: Sequence[str] = THINGS
        self._rows: list[tuple[UInt8[np.ndarray, "h w 3"], int]] = []
        for index in range(_SCENES):
            found = scene(stream, index, _SCENE_SIZE, seed=seed)
            for number, thing in enumerate(found.things):
                self._rows.append((crop(found, number), thing.thing - 1))
            if limit and len(self._rows) >= limit:
                self._rows = self._rows[:limit]
                break

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
        """Returns a square crop at its scene's resolution and the number of its thing."""
        return self._rows[index]


def open_pictures(path: str, labels: str = "", limit: int = 0) -> Pictures:
    """Finds labelled pictures.

    Args:
        path: a folder of `ClassFolder`'s layout, or "miniature", "miniature:STREAM" or
            "miniature:STREAM:SEED" (stream "val" and world 0 where they are not said).
        labels, limit: see `ClassFolder`.

    Raises:
        UserError: when there is no such thing.
    """
    if limit < 0:
        raise expected("evaluate.limit", "0 or more pictures", str(limit), "0 takes all")
    kind, *rest = path.split(":")
    if kind != _MINIATURE:
        return ClassFolder(path, labels, limit)
    if labels:
        raise expected("evaluate.labels", "none: the miniature names its things", labels, "drop it")
    if len(rest) > 2 or not all(seed.isdecimal() for seed in rest[1:]):
        raise expected(
            "evaluate.path", "miniature:STREAM:SEED", repr(path), "write miniature:val:0"
        )
    return MiniatureCrops(rest[0] if rest else "val", int(rest[1]) if rest[1:] else 0, limit)


def choose_templates(name: str, path: str) -> tuple[str, ...]:
    """Looks templates up; "" takes OpenAI's 80, or those of `openseg gates` for the miniature."""
    usual = "car15" if path.split(":")[0] == _MINIATURE else "openai80"
    return templates(name or usual)


@dataclasses.dataclass(frozen=True)
class _Text:
    """A text tower in training, as `text.classifier` takes it."""

    config: CLIPConfig
    params: Params
    tokenizer: Tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class ZeroShot:
    """Classifies pictures with a CLIP's own texts; calling it with parameters gives the accuracy.

    With several processes each must call it, with the same pictures.

    Attributes:
        pictures, templates: what is asked.
        embed: of the image tower in training.
        config, preprocess, tokenizer: of the CLIP.
        mesh: that the parameters lie on.
        threads: that read pictures.
    """

    pictures: Pictures
    templates: Sequence[str]
    embed: Embed
    config: CLIPConfig
    preprocess: Preprocess
    tokenizer: Tokenizer
    mesh: Mesh
    threads: int = 2

    def __call__(self, params: Params) -> dict[str, float]:
        """Measures parameters.

        Args:
            params: nested, with the text tower under "text"; on the mesh, or on the host.

        Returns:
            "zero_shot/top1", "zero_shot/top5" where there are more classes than that, shares in
            [0, 1]; "zero_shot/pictures", those that could be read.
        """
        tower = _Text(self.config, {"text": to_host(params["text"])}, self.tokenizer)
        rows = encode_names(tower, self.pictures.names, self.templates)
        classifier = put_whole(rows, NamedSharding(self.mesh, PartitionSpec()))
        total, running = np.zeros(3, np.int64), collections.deque()
        for batch in self._batches():
            running.append(self._count(params, classifier, **batch))
            if len(running) > _AHEAD:
                total += np.asarray(running.popleft())
        for counted in running:
            total += np.asarray(counted)
        best, among, seen = total.tolist()
        if not seen:
            raise UserError("evaluate.path: expected pictures that can be read, got none")
        found = {"zero_shot/top1": best / seen, "zero_shot/pictures": float(seen)}
        if len(self.pictures.names) > TOP:
            found[f"zero_shot/top{TOP}"] = among / seen
        return found

    @functools.cached_property
    def _count(self) -> Callable[..., Int[Array, "3"]]:
        # A named edge: jitted once for each experiment.
        def count(
            params: Params,
            classifier: Float[Array, "C E"],
            image: UInt8[Array, "B S S 3"],
            label: Int[Array, "B"],
            valid: Bool[Array, "B"],
        ) -> Int[Array, "3"]:
            rows: Any = self.embed(params, image)
            score: Any = rows @ classifier.T
            place = rank_of(score, label)
            hits = jnp.stack([place < 1, place < TOP, place >= 0])
            return (hits & valid).sum(axis=1, dtype=jnp.int32)

        return jax.jit(count, out_shardings=NamedSharding(self.mesh, PartitionSpec()))

    def _batches(self) -> Iterator[dict[str, Any]]:
        """Yields batches of one shape on the mesh, this process's rows read ahead by threads."""
        size = _ROWS * self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        mine = rows_here(self.mesh, size)
        with ThreadPoolExecutor(max(self.threads, 1)) as pool:

            def read(start: int) -> list[Future[Any]]:
                return [pool.submit(self._row, start + int(row)) for row in mine]

            ahead = read(0)
            for start in range(0, len(self.pictures), size):
                rows, ahead = ahead, read(start + size)
                columns: Any = zip(*(row.result() for row in rows), strict=True)
                names = ("image", "label", "valid")
                batch = {n: np.stack(x) for n, x in zip(names, columns, strict=True)}
                yield put_batch(batch, self.mesh, size)

    def _row(self, index: int) -> tuple[UInt8[np.ndarray, "S S 3"], np.int32, np.bool_]:
        side = self.preprocess.size
        blank = (np.zeros((side, side, 3), np.uint8), np.int32(0), np.bool_(False))
        if index >= len(self.pictures):
            return blank
        try:
            image, label = self.pictures[index]
        except UserError as problem:
            # A training does not end for a picture; the count says how many were asked about.
            logging.warning("left out of the evaluation: %s", problem)
            return blank
        return fit_image(image, self.preprocess), np.int32(label), np.bool_(True)


def rank_of(score: Float[Array, "B C"], label: Int[Array, "B"]) -> Int[Array, "B"]:
    """Counts the classes that come before the true one; of equal scores the first class does."""
    true = jnp.take_along_axis(score, label[:, None], axis=1)
    first = jnp.arange(score.shape[1])[None] < label[:, None]
    return ((score > true) | ((score == true) & first)).sum(axis=1)


def make_evaluator(
    config: Config,
    mesh: Mesh,
    embed: Embed,
    clip: CLIPConfig,
    preprocess: Preprocess,
    tokenizer: Tokenizer,
) -> Evaluator | None:
    """Builds what a config's section `evaluate` describes; None where nothing is evaluated.

    Args:
        config: as `configs/base.py` lists it.
        mesh: of the training.
        embed: the image tower of the training.
        clip, preprocess, tokenizer: of the weights.

    Raises:
        UserError: for pictures, names or templates that are not there.
    """
    asked = config.evaluate
    if asked.every < 0:
        raise expected("evaluate.every", "0 or more steps", str(asked.every), "0 never evaluates")
    if not asked.every:
        return None
    if not asked.path:
        raise expected(
            "evaluate.path", "labelled pictures", "none",
            "give a folder with one folder for each class, or miniature",
        )  # fmt: skip
    pictures = open_pictures(asked.path, asked.labels, asked.limit)
    chosen = choose_templates(asked.templates, asked.path)
    return ZeroShot(
        pictures, chosen, embed, clip, preprocess, tokenizer, mesh, config.input.threads
    )


def clip_evaluator(
    loaded: LoadedClip, path: str, *, labels: str = "", templates: str = "", limit: int = 0
) -> Evaluator:
    """Builds the evaluation of weights like `loaded` on one device; arguments as in the config.

    Raises:
        UserError: for pictures, names or templates that are not there.
    """
    clip = loaded.model()

    def embed(params: Params, image: Array) -> Array:
        pixels = scale_pixels(image, loaded.preprocess)
        return normalize(clip.apply({"params": params}, pixels, method=CLIP.encode_image))

    return ZeroShot(
        open_pictures(path, labels, limit), choose_templates(templates, path), embed,
        loaded.config, loaded.preprocess, loaded.tokenizer, make_mesh(devices=jax.devices()[:1]),
    )  # fmt: skip


def evaluate_state(evaluate: Evaluator, state: TrainState) -> dict[str, float]:
    """Measures a state's parameters, and its averages ("zero_shot_average/…") where it has some."""
    found = evaluate(state.params)
    if state.average is not None:
        mean = evaluate(averaged_params(state))
        found |= {key.replace("/", "_average/", 1): value for key, value in mean.items()}
    if jax.process_index() == 0:
        told = (f"{key} {value:.3f}" for key, value in found.items() if "/top" in key)
        logging.info("step %d: %s", int(state.step), ", ".join(told))
    return found

"""Contrastive experiments: a CLIP and a stream of captioned pictures."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from absl import logging
from jax.sharding import Mesh

from openseg_jax.errors import expected
from openseg_jax.inputs.image_text import ImageText
from openseg_jax.inputs.pipeline import Example, Source
from openseg_jax.miniature import captions, streams
from openseg_jax.miniature.world import CLASS_NAMES
from openseg_jax.models.clip import CLIP, normalize
from openseg_jax.models.variants import CLIPConfig, Preprocess
from openseg_jax.tasks.base import Task
from openseg_jax.tasks.clip import ClipTask
from openseg_jax.text.tokenizer import Tokenizer, openai_tokenizer, word_tokenizer
from openseg_jax.train.pair_inputs import (
    open_pairs,
    pair_source,
    saw_of,
    short_rows,
    synthetic_source,
)
from openseg_jax.train.setup import DTYPES
from openseg_jax.train.sharding import BATCH_AXES
from openseg_jax.train.state import Config
from openseg_jax.train.zero_shot import Evaluator, make_evaluator
from openseg_jax.types import Array, Params, UInt8
from openseg_jax.weights.folder import save_folder
from openseg_jax.weights.load import load_clip

# Names of `config.input.name` that read no files.
MADE = ("miniature", "synthetic")
TILE = 1024
PLAIN_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class ClipSetup:
    """A contrastive experiment; see `train.setup.Setup`.

    Attributes:
        task, source, saw: as there.
        config, preprocess, tokenizer: travel with the weights.
        labels: names that the weights know, used where a person gives none; may be empty.
        start: provenance of the weights that it starts from; None for fresh ones.
    """

    task: Task
    source: Source
    saw: str
    config: CLIPConfig
    preprocess: Preprocess
    tokenizer: Tokenizer
    labels: tuple[str, ...] = ()
    start: Mapping[str, str] | None = None

    def save(
        self,
        folder: str | os.PathLike[str],
        params: Params,
        provenance: Mapping[str, str],
        defaults: Mapping[str, Any],
        dtype: str,
    ) -> None:
        """Writes the CLIP as a model folder."""
        if self.start is not None:
            before = f"before it {self.start['name']}: {self.start['saw']}"
            provenance = {
                **provenance,
                "saw": f"{provenance['saw']}; {before}",
                "licence": self.start["licence"],
            }
        defaults = {"labels": list(self.labels), **defaults}
        save_folder(
            folder, self.config, params, self.preprocess, self.tokenizer, provenance,
            defaults, dtype,
        )  # fmt: skip

    def evaluator(self, config: Config, mesh: Mesh) -> Evaluator | None:
        """Builds the zero-shot evaluation of the config; see `train.zero_shot`."""
        task: Any = self.task

        def embed(params: Params, image: Array) -> Array:
            pixels = task.pixels(image)
            return normalize(task.clip.apply({"params": params}, pixels, method=CLIP.encode_image))

        return make_evaluator(config, mesh, embed, self.config, self.preprocess, self.tokenizer)


def miniature_tokenizer(context: int) -> Tokenizer:
    """Builds the word tokenizer of the miniature world."""
    # The tokenizer drops punctuation, so that "lemon." and "lemon" are one word.
    words = [word for word in captions.vocabulary() if word[0].isalnum()]
    return word_tokenizer(words, context)


def made_source(
    config: Config,
    tokenizer: Tokenizer,
    model: CLIPConfig,
    extras: Callable[[UInt8[np.ndarray, "H W 3"]], Example] | None = None,
) -> Source:
    """Builds an endless stream of captioned pictures that are not read but made; see `MADE`."""
    size = model.vision.image_size
    if config.input.name == "synthetic":
        return synthetic_source(config, tokenizer, size, model.text.vocab_size, extras)
    example = functools.partial(streams.training_example, size=size, seed=config.input.seed)
    rows = short_rows(tokenizer, config.input.context)
    return ImageText(example, rows.encode, config.input.examples, extras)


def choose_loss_block(config: Config, mesh: Mesh | None) -> int:
    """Returns the rows of a tile of image-text pairs; 0 for one array of all pairs.

    `task.loss_block` = -1 takes tiles where the batch lies on several devices, which would
    otherwise gather each other's rows, or where it has more than 4096 rows: there all pairs take
    64 MiB, and the loss several times that.

    Raises:
        UserError: for another negative number.
    """
    asked = config.task.loss_block
    if asked < -1:
        raise expected("task.loss_block", "rows, 0 or -1", str(asked), "-1 chooses")
    devices = 1 if mesh is None else math.prod(mesh.shape[a] for a in BATCH_AXES)
    block = asked
    if asked == -1:
        block = TILE if devices > 1 or config.batch_size > PLAIN_ROWS else 0
    if mesh is None:  # Nothing is trained.
        return block
    if block:
        tile = min(block, -(-config.batch_size // devices))
        logging.info("contrastive loss in tiles of %d² pairs, around %d devices", tile, devices)
    else:
        logging.info("contrastive loss with one array of %d² pairs", config.batch_size)
    return block


def build(config: Config, mesh: Mesh | None = None) -> ClipSetup:
    """Builds a CLIP experiment: fresh towers, or those of `config.init` to be tuned further.

    Raises:
        UserError: for an unknown input or loss, data that is not there, or weights that do not
            load.
    """
    # Data first: nobody wants to load weights to learn that a path is wrong.
    pairs = open_pairs(config, MADE)
    start = load_clip(config.init) if config.init else None
    miniature = config.input.name == "miniature"
    labels: tuple[str, ...] = CLASS_NAMES if miniature else ()
    if start is not None:
        tokenizer, model, preprocess = start.tokenizer, start.config, start.preprocess
        labels = tuple(start.defaults.get("labels", labels))
    else:
        described = config.model.to_dict()
        context = described["text"]["context"]
        tokenizer = miniature_tokenizer(context) if miniature else openai_tokenizer(context)
        if not described["text"]["vocab_size"]:
            described["text"]["vocab_size"] = (tokenizer.end or 0) + 1
        model = CLIPConfig.from_dict(described)
        preprocess = Preprocess(model.vision.image_size)
    if pairs is None:
        source = made_source(config, tokenizer, model)
    else:
        source = pair_source(config, pairs, tokenizer, model.vision.image_size)
    if config.task.loss == "sigmoid" and not model.logit_bias:
        logging.warning("task.loss: these weights have no logit bias, so that all pairs start even")
    clip = CLIP(
        model,
        dtype=DTYPES[config.dtype],
        scan=config.scan,
        remat=config.remat,
        backend=config.attention,
    )
    task = ClipTask(
        clip,
        preprocess,
        loss_name=config.task.loss,
        patch_mean_weight=config.task.patch_mean_weight,
        trainable=config.task.trainable,
        loss_block=choose_loss_block(config, mesh),
        mesh=mesh,
        axes=() if mesh is None else BATCH_AXES,
        start=None if start is None else start.params,
    )
    told = None if start is None else start.provenance
    return ClipSetup(task, source, saw_of(config), model, preprocess, tokenizer, labels, told)

"""Contrastive experiments: a CLIP and a stream of captioned pictures."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

from openseg_jax.errors import unknown_name
from openseg_jax.inputs.image_text import ImageText
from openseg_jax.inputs.pipeline import Source
from openseg_jax.miniature import captions, streams
from openseg_jax.miniature.world import CLASS_NAMES
from openseg_jax.models.clip import CLIP
from openseg_jax.models.variants import CLIPConfig, Preprocess
from openseg_jax.tasks.base import Task
from openseg_jax.tasks.clip import ClipTask
from openseg_jax.text.tokenizer import Tokenizer, word_tokenizer
from openseg_jax.train.setup import DTYPES
from openseg_jax.train.state import Config
from openseg_jax.types import Params
from openseg_jax.weights.folder import save_folder


@dataclasses.dataclass(frozen=True)
class ClipSetup:
    """A contrastive experiment; see `train.setup.Setup`.

    Attributes:
        task, source, saw: as there.
        config, preprocess, tokenizer: travel with the weights.
        labels: names that the weights know, used where a person gives none; may be empty.
    """

    task: Task
    source: Source
    saw: str
    config: CLIPConfig
    preprocess: Preprocess
    tokenizer: Tokenizer
    labels: tuple[str, ...] = ()

    def save(
        self,
        folder: str | os.PathLike[str],
        params: Params,
        provenance: Mapping[str, str],
        defaults: Mapping[str, Any],
        dtype: str,
    ) -> None:
        """Writes the CLIP as a model folder."""
        defaults = {"labels": list(self.labels), **defaults}
        save_folder(
            folder, self.config, params, self.preprocess, self.tokenizer, provenance,
            defaults, dtype,
        )  # fmt: skip


def miniature_tokenizer(context: int) -> Tokenizer:
    """Builds the word tokenizer of the miniature world."""
    # The tokenizer drops punctuation, so that "lemon." and "lemon" are one word.
    words = [word for word in captions.vocabulary() if word[0].isalnum()]
    return word_tokenizer(words, context)


def _miniature(config: Config, tokenizer: Tokenizer) -> Source:
    size, seed = config.model.vision.image_size, config.input.seed
    example = functools.partial(streams.training_example, size=size, seed=seed)
    return ImageText(example, tokenizer.encode, config.input.examples)


# Names of `config.input.name`: (the tokenizer, the source, the labels).
INPUTS: dict[str, tuple[Callable[[int], Tokenizer], Callable[..., Source], tuple[str, ...]]] = {
    "miniature": (miniature_tokenizer, _miniature, CLASS_NAMES),
}


def build(config: Config) -> ClipSetup:
    """Builds a CLIP experiment.

    Raises:
        UserError: for an unknown input or loss.
    """
    if config.input.name not in INPUTS:
        unknown_name(config.input.name, INPUTS, "input")
    make_tokenizer, make_source, labels = INPUTS[config.input.name]
    described = config.model.to_dict()
    tokenizer = make_tokenizer(described["text"]["context"])
    if not described["text"]["vocab_size"]:
        described["text"]["vocab_size"] = tokenizer.end + 1
    model = CLIPConfig.from_dict(described)
    preprocess = Preprocess(model.vision.image_size)
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
    )
    saw = f"captioned pictures of the {config.input.name} stream (seed {config.input.seed})"
    return ClipSetup(
        task, make_source(config, tokenizer), saw, model, preprocess, tokenizer, labels
    )

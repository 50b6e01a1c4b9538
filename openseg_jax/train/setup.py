"""From a config to the task and the data: the one place where their names are looked up."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

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
from openseg_jax.train.state import Config


@dataclasses.dataclass(frozen=True)
class ImageTextSetup:
    """A contrastive experiment: what the loop trains, and what an exported folder needs.

    Attributes:
        task, source: see `tasks.base.Task` and `inputs.pipeline.Source`.
        config, preprocess, tokenizer: travel with the weights.
        labels: names that the weights know, used where a person gives none; may be empty.
    """

    task: Task
    source: Source
    config: CLIPConfig
    preprocess: Preprocess
    tokenizer: Tokenizer
    labels: tuple[str, ...] = ()


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
TASKS = ("clip",)
DTYPES: dict[str, Any] = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build(config: Config) -> ImageTextSetup:
    """Builds task and source from a config.

    Raises:
        UserError: for an unknown name in it.
    """
    if config.task.name not in TASKS:
        unknown_name(config.task.name, TASKS, "task")
    if config.input.name not in INPUTS:
        unknown_name(config.input.name, INPUTS, "input")
    if config.dtype not in DTYPES:
        unknown_name(config.dtype, DTYPES, "dtype")
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
    source = make_source(config, tokenizer)
    return ImageTextSetup(task, source, model, preprocess, tokenizer, labels)

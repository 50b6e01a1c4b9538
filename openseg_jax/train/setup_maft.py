"""Both stages of MAFT: the generator beside a frozen CLIP, then the mask-aware image tower.

What is trained is kept in the model folder beside the CLIP, under "maft"; stage 2 keeps the
generator that stage 1 left there.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from openseg_jax.errors import expected, unknown_name
from openseg_jax.inputs.pipeline import Source
from openseg_jax.models.generator import (
    Generator,
    GeneratorConfig,
    generator_variant,
    init_generator,
)
from openseg_jax.models.ip_clip import POSITIONS, default_size, default_start
from openseg_jax.models.vit import VisionTransformer
from openseg_jax.tasks.base import Task
from openseg_jax.tasks.maft import MaftTask
from openseg_jax.tasks.maft_generator import GeneratorTask, Weights, frozen_generator, text_rows
from openseg_jax.text.classifier import text_classifier
from openseg_jax.text.prompts import templates
from openseg_jax.train.mask_inputs import MaskInputs, open_masks, saw_of
from openseg_jax.train.setup import DTYPES
from openseg_jax.train.state import Config
from openseg_jax.types import Array, Float, Params
from openseg_jax.weights.backbone import load_backbone
from openseg_jax.weights.folder import save_folder
from openseg_jax.weights.load import load_clip
from openseg_jax.weights.loaded import LoadedClip

NAME = "maft"


@dataclasses.dataclass(frozen=True)
class MaftSetup:
    """One stage of MAFT; see `train.setup.Setup`. Weights are loaded when asked for.

    Attributes:
        values: the config. stage: 1 or 2.
        inputs: the examples and the names of their classes.
    """

    values: Config
    stage: int
    inputs: MaskInputs

    @property
    def saw(self) -> str:
        """What one example is."""
        return f"{saw_of(self.values)}, from {self.values.init}"

    @functools.cached_property
    def loaded(self) -> LoadedClip:
        """The CLIP that training starts from."""
        return load_clip(self.values.init)

    @property
    def source(self) -> Source:
        """The examples."""
        return self.inputs.source

    @functools.cached_property
    def text(self) -> Float[np.ndarray, "C E"]:
        """One unit-length row for each training class."""
        chosen = templates(self.values.task.maft.templates)
        return np.array(text_classifier(self.loaded, self.inputs.classes, chosen))

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """What inference has to know of the training; its names are those of `MaftConfig`."""
        m, vision = self.values.task.maft, self.loaded.config.vision
        temperature = m.temperature or math.exp(float(self.loaded.params["logit_scale"]))
        return {
            "start": default_start(vision.depth) if m.start < 0 else m.start,
            "size": m.size or default_size(vision.image_size),
            "temperature": temperature,
            "templates": list(templates(m.templates)),
            "pos_resample": POSITIONS,
        }

    @functools.cached_property
    def generator(self) -> tuple[GeneratorConfig, Params] | None:
        """The generator that the weights bring, with its non-object row; None without one."""
        extra = self.loaded.extras.get(NAME, {})
        if "generator" not in extra:
            return None
        about = self.loaded.extras_config[NAME]["generator"]
        return GeneratorConfig.from_dict(about), {
            "generator": extra["generator"], "non_object": extra["non_object"],
        }  # fmt: skip

    @functools.cached_property
    def task(self) -> Task:
        """The loss and what learns."""
        return self._stage1() if self.stage == 1 else self._stage2()

    def _module(self, config: GeneratorConfig) -> Generator:
        return Generator(config, DTYPES[self.values.dtype])

    @property
    def _parity(self) -> str | None:
        return self.values.task.maft.parity or None

    def _stage1(self) -> GeneratorTask:
        c, m = self.values, self.values.task.maft
        found = self.generator
        if found is None:
            clip = self.loaded.config
            found = fresh_generator(m.generator, clip.embed_dim, clip.text.width, c.seed)
            if m.backbone:
                trunk, _ = load_backbone(m.backbone, found[0].backbone)
                found[1]["generator"]["backbone"] = trunk
        elif m.backbone:
            raise expected(
                "task.maft.backbone", "none, for init brings a generator with its own",
                repr(m.backbone), "leave out one of the two",
            )  # fmt: skip
        return GeneratorTask(
            self._module(found[0]),
            found[1],
            self.text,
            counts=Weights(m.classes, m.mask, m.dice, m.no_object),
            temperature=self.settings["temperature"],
            parity=self._parity,
            trainable=c.task.trainable,
        )

    def _stage2(self) -> MaftTask:
        c, clip, size = self.values, self.loaded.config, self.settings["size"]
        propose, frozen = None, {}
        if c.input.masks.proposals == "generator":
            if self.generator is None:
                raise expected(
                    "init", "weights with a proposal generator", repr(c.init),
                    "convert a FreeSeg or MAFT checkpoint, train stage 1, or set "
                    "input.masks.proposals=regions",
                )  # fmt: skip
            config, weights = self.generator
            rows = text_rows(jnp.asarray(self.text), jnp.asarray(weights["non_object"]))
            frozen = {"generator": weights["generator"], "text": rows}
            propose = frozen_generator(self._module(config), parity=self._parity)
        return MaftTask(
            VisionTransformer(
                clip.vision, clip.embed_dim, DTYPES[c.dtype], c.scan, c.remat, c.attention
            ),
            self.loaded.preprocess,
            self.loaded.params,
            self.text,
            self.settings["start"],
            (size, size),
            self.settings["temperature"],
            c.task.maft.distillation,
            propose,
            frozen,
            c.task.trainable,
        )

    def save(
        self,
        folder: str | os.PathLike[str],
        params: Params,
        provenance: Mapping[str, str],
        defaults: Mapping[str, Any],
        dtype: str,
    ) -> None:
        """Writes the CLIP as it was, and beside it what MAFT learnt."""
        clip = self.loaded
        extra: dict[str, Any] = {**clip.extras.get(NAME, {}), **params}
        settings = {**clip.extras_config.get(NAME, {}), **self.settings}
        if isinstance(self.task, GeneratorTask):
            settings["generator"] = self.task.generator.config.to_dict()
        about = {
            **provenance,
            "saw": f"{provenance['saw']}; the CLIP beside it: {clip.provenance['saw']}",
            "licence": clip.provenance["licence"],
        }
        save_folder(
            folder, clip.config, clip.params, clip.preprocess, clip.tokenizer, about,
            {**clip.defaults, **defaults}, dtype,
            extras={**clip.extras, NAME: extra},
            extras_config={**clip.extras_config, NAME: settings},
        )  # fmt: skip


def fresh_generator(
    name: str, embed_dim: int, text_width: int, seed: int
) -> tuple[GeneratorConfig, dict[str, Any]]:
    """Draws a generator and its non-object row, N(0, 1/text width) as published."""
    config = generator_variant(name, embed_dim)
    key = jax.random.fold_in(jax.random.key(seed), 2)
    row: Array = jax.random.normal(jax.random.fold_in(key, 1), (1, embed_dim))
    return config, {
        "generator": dict(init_generator(config, key)), "non_object": row * text_width**-0.5,
    }  # fmt: skip


def _build(config: Config, stage: int) -> MaftSetup:
    # Data first: nobody wants to load weights to learn that a path is wrong.
    inputs = open_masks(config)
    m = config.task.maft
    templates(m.templates)
    if m.parity not in ("", "reference"):
        unknown_name(m.parity, ["reference"], "task.maft.parity")
    if not config.init:
        raise expected("init", "a CLIP to start from", "none", "name one, e.g. --set init=ViT-B-16")
    return MaftSetup(config, stage, inputs)


def build_stage1(config: Config, mesh: Mesh | None = None) -> MaftSetup:
    """Builds the training of the generator.

    Raises:
        UserError: for unknown names in the config.
    """
    del mesh  # jit alone places what this task exchanges
    return _build(config, 1)


def build_stage2(config: Config, mesh: Mesh | None = None) -> MaftSetup:
    """Builds the fine-tuning of the image tower.

    Raises:
        UserError: for unknown names in the config.
    """
    del mesh  # jit alone places what this task exchanges
    return _build(config, 2)

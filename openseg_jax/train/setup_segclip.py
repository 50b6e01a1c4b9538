"""SegCLIP's training on captioned pictures, from a CLIP or from nothing."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging
from jax.sharding import Mesh

from openseg_jax.inputs.pipeline import Source
from openseg_jax.inputs.superpixel_examples import PatchSuperpixels
from openseg_jax.inputs.superpixels import Felzenszwalb, Superpixels
from openseg_jax.miniature.world import CLASS_NAMES
from openseg_jax.models.clip import normalize
from openseg_jax.models.segclip import SegCLIP, SegCLIPConfig
from openseg_jax.models.variants import CLIPConfig, Preprocess, VisionConfig
from openseg_jax.tasks.base import Task
from openseg_jax.tasks.segclip import SegClipTask
from openseg_jax.text.tokenizer import Tokenizer, openai_tokenizer
from openseg_jax.train.pair_inputs import open_pairs, pair_source, saw_of
from openseg_jax.train.setup import DTYPES
from openseg_jax.train.setup_clip import MADE, made_source, miniature_tokenizer
from openseg_jax.train.state import Config
from openseg_jax.train.zero_shot import Evaluator, make_evaluator
from openseg_jax.types import Array, Params, UInt8
from openseg_jax.weights.load import load_clip
from openseg_jax.weights.segclip_folder import save_segclip

# Keys of `config.task.segclip` that describe the model; the others describe the training.
_MODEL_KEYS = tuple(f.name for f in dataclasses.fields(SegCLIPConfig) if f.name != "clip")


@dataclasses.dataclass(frozen=True)
class SegClipSetup:
    """A SegCLIP experiment; see `train.setup.Setup`.

    Attributes:
        task, source, saw: as there.
        config, preprocess, tokenizer: travel with the weights.
        defaults: of the CLIP it started from, as far as they say what the weights know.
        licence: of that CLIP; "" where it starts from nothing.
    """

    task: Task
    source: Source
    saw: str
    config: SegCLIPConfig
    preprocess: Preprocess
    tokenizer: Tokenizer
    defaults: Mapping[str, Any]
    licence: str = ""

    def save(
        self,
        folder: str | os.PathLike[str],
        params: Params,
        provenance: Mapping[str, str],
        defaults: Mapping[str, Any],
        dtype: str,
    ) -> None:
        """Writes a model folder: the CLIP, and what SegCLIP adds under "segclip"."""
        if self.licence:
            provenance = {**provenance, "licence": self.licence}
        save_segclip(
            folder, self.config, params, self.preprocess, self.tokenizer, provenance,
            {**self.defaults, **defaults}, dtype,
        )  # fmt: skip

    def evaluator(self, config: Config, mesh: Mesh) -> Evaluator | None:
        """Builds the zero-shot evaluation of the config, on the embeddings of whole pictures."""
        task: Any = self.task
        model = task.looking

        def embed(params: Params, image: Array) -> Array:
            pixels = task.pixels(image)
            found = model.apply({"params": params}, pixels, method=SegCLIP.encode_image)
            return normalize(found.image)

        return make_evaluator(
            config, mesh, embed, self.config.clip, self.preprocess, self.tokenizer
        )


def _superpixels(config: Config, vision: VisionConfig) -> PatchSuperpixels:
    s = config.task.segclip
    made = Felzenszwalb(
        s.superpixel_scale, s.superpixel_sigma, s.superpixel_min_size, s.superpixel_short_side
    )
    superpixels = Superpixels(made, config.input.cache or None)
    return PatchSuperpixels(
        superpixels, vision.image_size, vision.patch_size, s.superpixel_parity or None
    )


def _gathered(source: Source, count: int) -> UInt8[np.ndarray, "n H W 3"] | None:
    """Returns the first pictures, the same in every process; None where none are wanted."""
    if not count:
        return None
    return np.stack([source[i]["image"] for i in range(min(count, len(source)))])


def build(config: Config, mesh: Mesh | None = None) -> SegClipSetup:
    """Builds a SegCLIP experiment.

    Raises:
        UserError: for an unknown input, data that is not there, weights that do not load, or a
            CLIP that SegCLIP is not defined on.
    """
    del mesh  # jit alone places what this task exchanges
    # Data first: nobody wants to load weights to learn that a path is wrong.
    pairs = open_pairs(config, MADE)
    saw, miniature = saw_of(config), config.input.name == "miniature"
    defaults: dict[str, Any] = {"labels": list(CLASS_NAMES)} if miniature else {}
    start, licence = None, ""
    if config.init:
        loaded = load_clip(config.init)
        clip, start = loaded.config, loaded.params
        tokenizer, preprocess = loaded.tokenizer, loaded.preprocess
        defaults = {"labels": loaded.defaults["labels"]} if "labels" in loaded.defaults else {}
        licence = loaded.provenance["licence"]
        saw += f", from {loaded.provenance['name']} ({loaded.provenance['saw']})"
    else:
        described = config.model.to_dict()
        context = described["text"]["context"]
        tokenizer = miniature_tokenizer(context) if miniature else openai_tokenizer(context)
        if not described["text"]["vocab_size"]:
            described["text"]["vocab_size"] = (tokenizer.end or 0) + 1
        clip = CLIPConfig.from_dict(described)
        preprocess = Preprocess(clip.vision.image_size)
    # Positions of other sizes are resampled as the published SegCLIP does it.
    vision = dataclasses.replace(clip.vision, pos_resample="bicubic")
    s = config.task.segclip
    if config.accumulate > 1 and s.contrastive:
        logging.warning(
            "accumulate: each of the %d parts of a batch has no negatives beyond its own %d pairs",
            config.accumulate, config.batch_size // config.accumulate,
        )  # fmt: skip
    described = {key: s[key] for key in _MODEL_KEYS}
    model = SegCLIPConfig(clip=dataclasses.replace(clip, vision=vision), **described)
    switches = (config.scan, config.remat, config.attention)
    extras = _superpixels(config, vision) if s.superpixel else None
    if pairs is None:
        source = made_source(config, tokenizer, clip, extras)
    else:
        source = pair_source(config, pairs, tokenizer, vision.image_size, extras)
    task = SegClipTask(
        SegCLIP(model, s.cross_batch_kv, s.scramble_images, DTYPES[config.dtype], *switches),
        preprocess,
        contrastive=s.contrastive,
        reconstruction=s.reconstruction,
        superpixel=s.superpixel,
        equal_captions=s.equal_captions,
        clip=start,
        gathered=_gathered(source, s.start_pictures),
        trainable=config.task.trainable,
    )
    return SegClipSetup(task, source, saw, model, preprocess, tokenizer, defaults, licence)

"""The experiment that a config describes, without its data and without its weights.

The real builders of `train.setup` make it: shapes of weights stand in for weights, and the
procedural stream for files, whose examples have the same shapes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from openseg_jax.errors import UserError, expected
from openseg_jax.inputs.pairs import SKIPPED
from openseg_jax.inputs.pipeline import batch_spec
from openseg_jax.models.generator import generator_spec, generator_variant
from openseg_jax.models.variants import VARIANTS, CLIPConfig, Preprocess
from openseg_jax.tasks.base import Task
from openseg_jax.train import setup
from openseg_jax.train.setup_maft import MaftSetup
from openseg_jax.train.state import Config, flat_names, nested
from openseg_jax.types import Params
from openseg_jax.weights.folder import CONFIG_FILE, read_json
from openseg_jax.weights.loaded import LoadedClip
from openseg_jax.weights.registry import MINIATURE, known
from openseg_jax.weights.report import Report
from openseg_jax.weights.tree import param_spec, unflatten

_CLIP_TOKENS = 49408  # rows of OpenAI's token table
_SMALL = 64  # side of a picture with masks that is drawn to learn what a batch holds


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A training that can be compiled.

    Attributes:
        config: what the builders were given. task: theirs.
        batch: shapes of a batch. params, frozen: shapes of what the task starts from.
    """

    config: Config
    task: Task
    batch: dict[str, jax.ShapeDtypeStruct]
    params: Params
    frozen: Params


def architecture(init: str) -> CLIPConfig:
    """Tells the architecture of weights that need not be here.

    Args:
        init: a known name, a variant, or a model folder.

    Raises:
        UserError: for anything else.
    """
    if init in VARIANTS:
        return VARIANTS[init]
    folder = MINIATURE if init == "miniature" else Path(init)
    if (folder / CONFIG_FILE).is_file():
        return CLIPConfig.from_dict(read_json(folder / CONFIG_FILE)["model"])
    if init.endswith("/model") or folder.suffix or folder.exists():
        raise expected(
            "init", "a known name or a model folder that is there", repr(init),
            "name the architecture instead, --set init=ViT-B-16; its weights are not read",
        )  # fmt: skip
    return VARIANTS[known(init).variant]


def stand_in(spec: Any) -> Any:
    """Makes arrays of zeros that take no memory, whatever their shapes."""
    return jax.tree.map(lambda s: np.broadcast_to(np.zeros((), s.dtype), s.shape), spec)


def clip_without_weights(config: CLIPConfig) -> LoadedClip:
    """Makes what `load_clip` returns, with zeros that take no memory."""
    params = unflatten({name: stand_in(s) for name, s in param_spec(config).items()})
    return LoadedClip(
        config=config,
        params=params,
        preprocess=Preprocess(config.vision.image_size),
        tokenizer=None,  # type: ignore[arg-type]
        provenance={"name": config.name, "source": "", "licence": "", "saw": ""},
        defaults={},
        report=Report.__new__(Report),
    )


def experiment(config: Config, mesh: Mesh) -> Experiment:
    """Builds the experiment with neither data nor weights; nothing is allocated.

    Args:
        config: as `configs/base.py` lists it.
        mesh: the devices, which may only be described.

    Raises:
        UserError: for unknown names, or `init` of an unknown architecture.
    """
    config = config.copy_and_resolve_references()
    masks = config.task.name.startswith("maft")
    classes = _count_classes(config) if masks else 0
    if not masks and config.init:
        config.model, config.init = ConfigDict(architecture(config.init).to_dict()), ""
    elif not masks and config.input.name not in ("miniature", "synthetic"):
        config.model.text.vocab_size = config.model.text.vocab_size or _CLIP_TOKENS
    if config.input.name != "synthetic":
        config.input.name, config.input.path = "miniature", ""
    config.task.segclip.start_pictures = 0
    crop = config.input.masks.crop
    config.input.masks.crop = _SMALL
    if config.input.masks.proposals == "regions":
        config.input.masks.proposals = "noisy"  # of the same shapes, and made sooner
    built: Any = setup.build(config, mesh)
    if isinstance(built, MaftSetup):
        _fill(built, classes)
    spec = batch_spec(built.source, config.batch_size)
    spec.pop(SKIPPED, None)
    if masks:
        spec = _grown(spec, config.input.masks.stride, crop)
    params, frozen = _start(built.task, spec)
    return Experiment(config, built.task, spec, nested(flat_names(params)), frozen)


def _grown(spec: dict[str, Any], stride: int, crop: int) -> dict[str, Any]:
    """Gives small pictures, their segments and their proposals the sides of real ones."""
    sides = {"image": (_SMALL, crop), "segments": (_SMALL, crop)}
    sides["proposals"] = (_SMALL // stride, crop // stride)
    grown = dict(spec)
    for name, (small, large) in sides.items():
        if name in spec:
            shape = tuple(large if n == small else n for n in spec[name].shape[1:])
            whole = (spec[name].shape[0], *shape)
            grown[name] = jax.ShapeDtypeStruct(whole, spec[name].dtype)
    return grown


def _count_classes(config: Config) -> int:
    from openseg_jax.train.mask_inputs import named_classes

    m = config.input.masks
    if config.input.name == "miniature":
        return 0
    return len(named_classes(m.classes, m.split, m.ids).names)


def _fill(built: MaftSetup, classes: int) -> None:
    """Puts shapes where MAFT's setup would load weights and encode names."""
    config: Any = built.values
    clip = architecture(config.init) if config.init else None
    if clip is None:
        # A folder of an earlier stage that is not there yet.
        raise UserError("init: expected a CLIP to start from, got none; name one")
    count = classes or len(built.inputs.classes)
    generator = generator_variant(config.task.maft.generator, clip.embed_dim)
    row = np.broadcast_to(np.zeros((), np.float32), (1, clip.embed_dim))
    # What functools.cached_property would compute.
    built.__dict__.update(
        loaded=clip_without_weights(clip),
        text=np.broadcast_to(np.zeros((), np.float32), (count, clip.embed_dim)),
        generator=(
            generator, {"generator": stand_in(generator_spec(generator)), "non_object": row},
        ),
    )  # fmt: skip


def _start(task: Any, spec: Any) -> tuple[Params, Params]:
    """Traces `task.init` with the task's own arrays as arguments, so that none is copied."""
    arrays = {}
    for field in dataclasses.fields(task):
        leaves = jax.tree.leaves(getattr(task, field.name))
        if leaves and all(isinstance(x, np.ndarray | jax.Array) for x in leaves):
            arrays[field.name] = getattr(task, field.name)

    def start(arrays: dict[str, Any], key: Any) -> tuple[Params, Params]:
        return dataclasses.replace(task, **arrays).init(key, spec)

    return jax.eval_shape(start, arrays, jax.eval_shape(lambda: jax.random.key(0)))

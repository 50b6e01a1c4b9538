"""Plans a method's inference: the jitted segmentation of a batch on one device.

Devices segment pictures of their own and exchange nothing, so one of them is all there is to plan.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from openseg_jax.errors import expected, unknown_name
from openseg_jax.methods import (
    car_config,
    car_texts,
    clip_dense_config,
    clip_dense_texts,
    maft_config,
    maft_texts,
    segclip_config,
    segclip_texts,
)
from openseg_jax.methods.car import CaR
from openseg_jax.methods.clip_dense import ClipDense
from openseg_jax.methods.maft import Maft
from openseg_jax.methods.proposals_generator import GeneratorProposals
from openseg_jax.methods.segclip import SegClip
from openseg_jax.models import segclip as segclip_model
from openseg_jax.models.generator import generator_spec, generator_variant
from openseg_jax.models.segclip import SegCLIPConfig
from openseg_jax.ops.platform import planned_for
from openseg_jax.plan.compiled import bytes_here, devices_of, measure
from openseg_jax.plan.experiments import architecture, clip_without_weights, stand_in
from openseg_jax.plan.report import inference_text, measured_dict
from openseg_jax.plan.topology import Machine
from openseg_jax.plan.training import PLATFORMS
from openseg_jax.train.flops import count_flops
from openseg_jax.types import Params


@dataclasses.dataclass
class Asked:
    """What is planned; `--set` changes it, and what it does not know are settings of the method.

    Attributes:
        model, classifier: architectures; weights are not read. classes: how many names.
        height, width: of a picture, pixels. dtype: of the towers.
    """

    model: str = "ViT-B-16"
    classifier: str = "ViT-L-14"
    classes: int = 21
    height: int = 512
    width: int = 512
    dtype: str = "bfloat16"


Built = tuple[Any, Params, Any]


def _rows(count: int, width: int) -> np.ndarray:
    return np.zeros((count, width), np.float32)


def _car(asked: Asked, settings: dict[str, Any]) -> Built:
    cam = clip_without_weights(architecture(asked.model))
    second = clip_without_weights(architecture(asked.classifier))
    config = car_config.configure(**settings)
    method = CaR(cam, second, config, dtype=asked.dtype)
    templates = max(1, len(config.templates))
    text = car_texts.from_embeddings(
        _rows(asked.classes, cam.config.embed_dim),
        np.zeros((templates, asked.classes, second.config.embed_dim), np.float32),
        background=_rows(len(config.background or ()), cam.config.embed_dim),
        names=[str(i) for i in range(asked.classes)],
    )
    names = ("visual", "logit_scale")
    params = {
        "cam": {name: cam.params[name] for name in names},
        "classifier": {name: second.params[name] for name in names},
    }
    return method, params, car_texts.bucketed(text)


def _segclip(asked: Asked, settings: dict[str, Any]) -> Built:
    clip = clip_without_weights(architecture(asked.model))
    described = SegCLIPConfig(clip=clip.config)
    model = segclip_model.SegCLIP(described)
    shapes: Any = jax.eval_shape(lambda: segclip_model.init_params(model, jax.random.key(0)))
    extra = {f.name: getattr(described, f.name) for f in dataclasses.fields(described)}
    del extra["clip"]
    whole = {**stand_in(shapes)}
    clip = dataclasses.replace(clip, extras={"segclip": whole}, extras_config={"segclip": extra})
    method = SegClip.__new__(SegClip)
    SegClip.__init__(method, clip, segclip_config.configure(**settings), dtype=asked.dtype)
    count = asked.classes
    text = segclip_texts.SegClipText(
        _rows(count, clip.config.embed_dim), np.ones(count, bool), count
    )
    return method, {name: whole[name] for name in ("visual", "logit_scale")}, text


def _clip_dense(asked: Asked, settings: dict[str, Any]) -> Built:
    clip = clip_without_weights(architecture(asked.model))
    method = ClipDense(clip, clip_dense_config.configure(**settings), dtype=asked.dtype)
    count = asked.classes
    text = clip_dense_texts.DenseText(
        _rows(count, clip.config.embed_dim), np.ones(count, np.int32),
        np.arange(count, dtype=np.int32)[:, None], np.ones(count, bool), count,
    )  # fmt: skip
    return method, {"visual": clip.params["visual"]}, text


def _maft(asked: Asked, settings: dict[str, Any]) -> Built:
    clip = clip_without_weights(architecture(asked.model))
    generator = generator_variant("r101", clip.config.embed_dim)
    source = GeneratorProposals(generator, {}, jax.numpy.dtype(asked.dtype))
    method = Maft(clip, source, maft_config.configure(**settings), dtype=asked.dtype)
    count = asked.classes
    row = np.zeros((1, clip.config.embed_dim), np.float32)
    params = {
        "visual": clip.params["visual"], "source": generator_spec(generator), "non_object": row,
    }  # fmt: skip
    text = maft_texts.MaftText(
        row.repeat(count, 0), np.ones(count, bool), np.zeros(count, bool), count
    )
    return method, params, text


METHODS: dict[str, Callable[[Asked, dict[str, Any]], Built]] = {
    "car": _car, "clip_dense": _clip_dense, "maft": _maft, "segclip": _segclip,
}  # fmt: skip


def read_settings(settings: Sequence[str]) -> tuple[Asked, dict[str, Any]]:
    """Splits KEY=VALUE texts into what is planned and settings of the method.

    Raises:
        UserError: for text without "=", or a value that nothing can have.
    """
    asked, others = Asked(), {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise expected("--set", "KEY=VALUE", repr(setting), "add the value")
        try:
            value: Any = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        if hasattr(asked, name):
            if type(value) is not type(getattr(asked, name)):
                raise expected(
                    f"--set {name}", type(getattr(asked, name)).__name__, repr(text), "correct it"
                )
            if isinstance(value, int) and value < 1:
                raise expected(f"--set {name}", "1 or more", text, "correct it")
            setattr(asked, name, value)
        else:
            others[name] = value
    return asked, others


def run(
    name: str, machine: Machine, batch: int, settings: Sequence[str], *, exact: bool = False
) -> tuple[str, dict[str, Any], bool]:
    """Compiles a method's segmentation for one device of a machine.

    Args:
        name: a key of `METHODS`.
        machine: whose device.
        batch: pictures at once.
        settings: KEY=VALUE of `Asked` and of the method.
        exact: see `compiled.measure`.

    Returns:
        The report, its numbers, and whether it fits.

    Raises:
        UserError: for unknown names or settings.
    """
    if name not in METHODS:
        unknown_name(name, METHODS, "--inference")
    if batch < 1:
        raise expected("--batch", "1 or more", str(batch), "correct it")
    asked, others = read_settings(settings)
    chip = machine.chip
    shape = (1,) * chip.axes if chip.kind == "tpu" and chip.per_chip == 1 else machine.shape
    alone = dataclasses.replace(machine, shape=shape)
    mesh = Mesh(np.array(devices_of(alone)[:1]), ("data",))
    here = NamedSharding(mesh, PartitionSpec())
    with planned_for(PLATFORMS[chip.kind], 1):
        method, params, text = METHODS[name](asked, others)
        image = jax.ShapeDtypeStruct((batch, asked.height, asked.width, 3), np.uint8)
        arguments = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), (params, image, text)
        )
        traced = jax.jit(method.segment).trace(*arguments)
        one = Machine(machine.name, chip, (1,) * len(machine.shape))
        measured = measure(
            one, traced, state=bytes_here(arguments[0]), batch=bytes_here(arguments[1]),
            exact=exact,
        )  # fmt: skip
    needed = count_flops(traced.jaxpr)
    numbers = measured_dict(measured, needed, exact=exact)
    numbers["inference"] = {
        "method": name,
        "batch": batch,
        **dataclasses.asdict(asked),
        "settings": others,
    }
    return inference_text(name, asked, batch, measured, needed), numbers, measured.fits

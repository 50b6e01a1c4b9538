import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.models.generator import (
    VARIANTS,
    Generator,
    GeneratorConfig,
    generator_spec,
    generator_variant,
    init_generator,
)
from openseg_jax.weights.tree import flatten

TINY = dataclasses.replace(
    VARIANTS["tiny"],
    backbone=dataclasses.replace(
        VARIANTS["tiny"].backbone, depths=(1, 1, 1, 1), dilations=(2,), stem="basic"
    ),
    decoder=dataclasses.replace(VARIANTS["tiny"].decoder, layers=1),
)


@functools.cache
def tiny():
    """Returns parameters, an image whose sizes are no multiples of 32, and unit text rows."""
    r = np.random.default_rng(0)
    image = r.integers(0, 256, (2, 40, 70, 3), np.uint8)
    text = r.normal(size=(5, 32)).astype(np.float32)
    return (
        init_generator(TINY, jax.random.key(0)),
        image,
        text / np.linalg.norm(text, axis=-1, keepdims=True),
    )


@functools.cache
def infer_compiled() -> Any:
    return jax.jit(
        lambda params, image, text, valid: Generator(TINY).apply(
            {"params": params}, image, text, valid=valid
        )
    )


def infer(image, text, valid=None):
    valid = np.ones(image.shape[:3], bool) if valid is None else valid
    return infer_compiled()(tiny()[0], image, text, valid)


def test_outputs_cover_the_padded_image():
    _, image, text = tiny()
    out: dict[str, Any] = infer(image, text)
    layers = TINY.decoder.layers + 1
    assert [x.shape for x in out["masks"]] == [(2, TINY.decoder.queries, 16, 24)] * layers
    assert [x.shape for x in out["class_embed"]] == [(2, TINY.decoder.queries, 32)] * layers
    assert out["masks"][-1].dtype == jnp.float32
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(out))
    # The text matters.
    other = infer(image, -text)
    assert float(jnp.abs(out["masks"][-1] - other["masks"][-1]).max()) > 1e-3


def test_invalid_pixels_are_padding():
    _, image, text = tiny()
    valid = np.zeros(image.shape[:3], bool)
    valid[:, :32, :64] = True
    noise = np.where(valid[..., None], image, 255 - image)
    want, got = infer(image, text, valid), infer(noise, text, valid)
    np.testing.assert_array_equal(got["masks"][-1], want["masks"][-1])
    assert np.any(infer(image, text)["masks"][-1] != want["masks"][-1])


@pytest.mark.slow
def test_dropout_is_for_training():
    params, image, text = tiny()

    @jax.jit
    def loss(params, key):
        out: Any = Generator(TINY).apply(
            {"params": params}, image, text, train=True, rngs={"dropout": key}
        )
        return sum(jnp.mean(x**2) for x in jax.tree.leaves(out)) + 0.0

    one, same, other = (float(loss(params, jax.random.key(k))) for k in (0, 0, 1))
    assert one == same
    assert abs(one - other) > 1e-4 * one
    grads = flatten(jax.jit(jax.grad(loss))(params, jax.random.key(0)))
    frozen = {k for k in grads if k.startswith("backbone/") and "/norm/" in k}
    assert all(bool(jnp.isfinite(grad).all()) for grad in grads.values())
    # What the sampling starts from is constant, so not every parameter learns in the first step.
    learns = {k for k, grad in grads.items() if bool((grad != 0).any())}
    assert not learns & frozen
    assert {
        "backbone/stem_conv1/conv/kernel", "interaction/gamma", "decoder/query_feat",
        "pixel_decoder/layers_0/self_attn/sampling_offsets/kernel",
        "decoder/class_embed/layers_0/kernel",
    } <= learns  # fmt: skip


def test_the_published_sizes():
    """Parameter counts of the spec; nothing is allocated."""
    flat = flatten(generator_spec(VARIANTS["r101"]))
    count: dict[str, int] = dict.fromkeys(
        ("backbone", "pixel_decoder", "decoder", "interaction"), 0
    )
    for name, leaf in flat.items():
        count[name.split("/")[0]] += int(np.prod(leaf.shape))
    assert count == {
        "backbone": 42729664,
        "pixel_decoder": 6035904,
        "decoder": 16825344,
        "interaction": 3153920,
    }


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_configurations_survive_json(name):
    about = json.loads(json.dumps(VARIANTS[name].to_dict()))
    assert GeneratorConfig.from_dict(about) == VARIANTS[name]


def test_text_width_is_a_setting():
    config = generator_variant("tiny", 16)
    assert config.interaction is not None
    assert (config.interaction.text_dim, config.decoder.class_dim) == (16, 16)


def test_mistakes_are_named():
    params, image, text = tiny()
    with pytest.raises(UserError, match="width 32, got width 31"):
        Generator(TINY).apply({"params": params}, image, text[:, :31])
    with pytest.raises(UserError, match="got none"):
        Generator(TINY).apply({"params": params}, image)
    with pytest.raises(UserError, match="did you mean 'r101'"):
        generator_variant("r10")
    with pytest.raises(UserError, match="backbone"):
        GeneratorConfig.from_dict({**TINY.to_dict(), "backbone_kind": "resne"})
    with pytest.raises(UserError, match="speed"):
        GeneratorConfig.from_dict({**TINY.to_dict(), "speed": 3})

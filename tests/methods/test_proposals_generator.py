import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.methods.proposals import ProposalSource, load_source
from openseg_jax.methods.proposals_generator import GeneratorProposals
from openseg_jax.models.generator import VARIANTS, Generator, init_generator
from openseg_jax.ops.resize import resize
from openseg_jax.weights.loaded import LoadedClip
from openseg_jax.weights.report import Report
from tests.weights.tiny import CLIP_MU, PREPROCESS, PROVENANCE, random_params, tokenizer

TINY = VARIANTS["tiny"]
CONFIG = dataclasses.replace(
    TINY,
    backbone=dataclasses.replace(TINY.backbone, depths=(1, 1, 1, 1), dilations=(1,)),
    decoder=dataclasses.replace(TINY.decoder, layers=1),
)


@functools.cache
def clip() -> LoadedClip:
    """A tiny CLIP with a generator beside it; the generator's own text width is 32."""
    params = init_generator(CONFIG, jax.random.key(0))
    return LoadedClip(
        CLIP_MU, random_params(CLIP_MU), PREPROCESS, tokenizer(), PROVENANCE, {}, Report("x"),
        {"maft": {"generator": params}}, {"maft": {"generator": CONFIG.to_dict()}},
    )  # fmt: skip


@functools.cache
def outputs():
    """Returns the source, what it proposes, and the generator's own logits.

    Sizes are no multiples of 32.
    """
    source = load_source("generator", clip())
    r = np.random.default_rng(0)
    image = r.integers(0, 256, (2, 40, 60, 3), np.uint8)
    text = r.normal(size=(6, 32)).astype(np.float32)
    text /= np.linalg.norm(text, axis=-1, keepdims=True)
    # Two padded classes before the non-object row.
    text[3:5] = 0

    @jax.jit
    def run(params, image, text):
        valid = (text != 0).any(-1)
        out: Any = Generator(CONFIG).apply({"params": params}, image, text, text_valid=valid)
        return source.propose_scored(params, image, text), out["masks"][-1]  # type: ignore

    return source, *run(source.params, image, text)


def test_masks_cover_the_image_and_all_exist():
    source, (probs, exists, _), _ = outputs()
    assert isinstance(source, ProposalSource)
    assert probs.shape == (2, CONFIG.decoder.queries, 40, 60)
    assert exists.all() and exists.shape == probs.shape[:2]
    assert float(probs.min()) >= 0 and float(probs.max()) <= 1


def test_masks_are_the_generator_s_with_aligned_corners():
    _, (probs, _, _), logits = outputs()
    want = resize(logits, (64, 64), convention="align_corners")[..., :40, :60]
    np.testing.assert_allclose(probs, jax.nn.sigmoid(want), atol=1e-4)


def test_class_scores_leave_room_for_no_object():
    _, (_, _, scores), _ = outputs()
    assert scores.shape == (2, CONFIG.decoder.queries, 5)
    assert float(np.abs(scores[..., 3:]).max()) == 0
    assert float(scores.sum(-1).max()) < 1 + 1e-5
    assert float(scores.sum(-1).min()) < 0.9


def test_what_is_missing_is_named():
    bare = dataclasses.replace(clip(), extras={}, extras_config={})
    with pytest.raises(UserError, match=r"generator.*'mu' without one.*openseg convert"):
        load_source("generator", bare)
    broken = dataclasses.replace(clip(), extras={"maft": {"generator": {"x": np.zeros(2)}}})
    with pytest.raises(UserError, match="generator: "):
        load_source("generator", broken)
    with pytest.raises(UserError, match="folder: expected a Mask2Former"):
        load_source("mask2former", clip())
    agnostic = GeneratorProposals(dataclasses.replace(CONFIG, interaction=None), {})
    with pytest.raises(UserError, match="ensemble_weight"):
        agnostic.propose_scored({}, np.zeros((1, 32, 32, 3), np.uint8), np.zeros((2, 32)))

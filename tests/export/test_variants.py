"""Weights of other shapes: two towers with one tokenizer each, a drawn generator, bfloat16."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

from openseg_jax import export
from openseg_jax.methods.base import load_segmenter
from openseg_jax.models.generator import init_generator
from openseg_jax.weights.loaded import LoadedClip
from openseg_jax.weights.report import Report
from openseg_jax.weights.vocabulary import bert_vocabulary
from tests.export.exports import live, needs_flatbuffers, pictures
from tests.methods.test_proposals_generator import CONFIG
from tests.weights.lit import LIT_BERT_MU, WORD_PIECES
from tests.weights.tiny import (
    CLIP_MU,
    PREPROCESS,
    PROVENANCE,
    SIGLIP_MU,
    random_params,
    tokenizer,
)

pytestmark = [pytest.mark.slow, needs_flatbuffers]
SIZE, NAMES = (32, 48), ["lemon", "zebra", "grass"]


@functools.cache
def clip(siglip=False):
    # As wide as the generator's texts.
    config = SIGLIP_MU if siglip else dataclasses.replace(CLIP_MU, embed_dim=32)
    params = init_generator(CONFIG, jax.random.key(0))
    words = tokenizer()
    words.context = config.text.context
    return LoadedClip(
        config, random_params(config), PREPROCESS, words, PROVENANCE, {}, Report("x"),
        {"maft": {"generator": params}}, {"maft": {"generator": CONFIG.to_dict()}},
    )  # fmt: skip


def two_towers():
    return load_segmenter(
        "car", clip(siglip=True), classifier=clip(), refine="none", templates=("a {}", "{}"),
        background=("sky",), confidence_threshold=0.0,
    )  # fmt: skip


def generator():
    return load_segmenter("maft", clip(), size=32, background=("sky",))


def ensemble():
    return load_segmenter("maft", clip(), size=32, ensemble_weight=0.5, seen=("zebra",))


def lit():
    """Its rows have no end, and are shorter than its table of positions."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text("\n".join(WORD_PIECES))
        words = bert_vocabulary(Path(folder) / "lit.npz")
    params = random_params(LIT_BERT_MU)
    clip = LoadedClip(LIT_BERT_MU, params, PREPROCESS, words, PROVENANCE, {}, Report("x"))
    return load_segmenter("clip_dense", clip, short_side=32, background=("of",))


def whole():
    return load_segmenter("clip_dense", clip(), mode="whole", background=(), dtype="bfloat16")


@pytest.mark.parametrize("make", [two_towers, generator, ensemble, whole, lit])
def test_it_does_what_the_segmenter_does(make, tmp_path):
    segmenter = make()
    manifest = export.write(segmenter, tmp_path / "made", size=SIZE)
    model = export.load(tmp_path / "made")
    images, valid = pictures(2, SIZE)
    if "valid" not in manifest["inputs"]:
        images, valid = images[:1], None
    labels, scores, alive = model.segment(images, model.classes(NAMES), valid)
    wanted, wanted_scores, wanted_alive = live(segmenter, images, valid, NAMES)
    # bfloat16 keeps 8 bits, and the two programs round at different places.
    loose = make is whole
    assert (labels == wanted).mean() > (0.9 if loose else 0.98)
    both = alive & wanted_alive
    assert both.any()
    np.testing.assert_allclose(scores[both], wanted_scores[both], atol=0.05 if loose else 2e-3)
    if make is two_towers:
        assert {t["program"] for t in manifest["towers"].values()} == {"text", "text_classifier"}
        assert manifest["towers"]["cam"]["lengths"] == []

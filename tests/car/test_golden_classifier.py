"""CaR golden: the mask classifier on given prompted images."""

import jax
import numpy as np
import pytest

from openseg_jax.methods import car_geometry
from openseg_jax.methods.car_classifier import scores, template_probabilities
from tests import golden
from tests.car.models import car, embed_ids, golden_clip

CASES = [p for p in golden.cases("car", "classifier") if "in/prompted" in golden.load(p)[0]]
CASE = pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def embed(path, **wrong):
    a, meta = golden.load(path)
    loaded = golden_clip(meta.get("model", "weights_cls"), path.parent)
    seg = car(loaded, loaded, parity="reference", **wrong)
    stepper = seg.stepper(a["in/prompted"].shape[1:3], padded=False)
    geometry = car_geometry.exact(stepper.proposer.plan)
    pixels = stepper.classifier_pixels(geometry, a["in/prompted"])
    vectors = jax.jit(stepper.classifier.embed)(seg.params["classifier"]["visual"], pixels)
    return a, loaded, np.asarray(pixels), np.asarray(vectors)


@CASE
def test_car_golden_classifier_embeddings(path):
    a, loaded, pixels, vectors = embed(path)
    np.testing.assert_allclose(pixels, np.moveaxis(a["out/pixels"], 1, -1), atol=2e-6)
    np.testing.assert_allclose(vectors, unit(a["out/image_embed"]), atol=2e-5)
    _, _, _, whole = embed(path, skip_last_cls_block=False)
    trap = unit(a["out/image_embed_if_last_block_were_used"])
    np.testing.assert_allclose(whole, trap, atol=1e-3)
    assert np.abs(whole - unit(a["out/image_embed"])).max() > 1e-2
    texts = unit(embed_ids(loaded, a["in/tok"]))
    np.testing.assert_allclose(texts, unit(a["out/text_embed"]), atol=2e-6)


@CASE
def test_car_golden_classifier_scores(path):
    a, loaded, _, vectors = embed(path)
    texts, scale = unit(embed_ids(loaded, a["in/tok"])), np.exp(loaded.params["logit_scale"])
    alive = np.ones(len(vectors), bool)
    p = template_probabilities(vectors, texts, alive, scale)
    np.testing.assert_allclose(p, a["out/prob_per_template"], atol=1e-5)
    own, matrix = scores(vectors, texts, alive, scale, rule="sum")
    np.testing.assert_allclose(matrix, a["out/scores"], atol=1e-5)
    np.testing.assert_array_equal(own, np.diagonal(matrix))
    _, single = scores(vectors, texts, alive, scale, rule="mean")
    assert np.abs(np.asarray(single) - a["out/scores"]).max() > 1e-3

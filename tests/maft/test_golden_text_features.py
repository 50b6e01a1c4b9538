"""MAFT golden: class embeddings from 14 templates, and the non-object row."""

import functools
import types
from typing import Any

import jax
import numpy as np
import pytest

from openseg_jax.methods.maft_texts import with_non_object
from openseg_jax.methods.vocabulary import unit_rows
from openseg_jax.text import classifier
from openseg_jax.text.prompts import fill, templates
from openseg_jax.text.tokenizer import openai_tokenizer
from tests import golden
from tests.maft import towers

CASE = pytest.mark.parametrize("path", golden.cases("maft", "text_features"), ids=lambda p: p.stem)


@functools.cache
def encoded(path):
    a, meta = golden.load(path)
    state = {k.removeprefix("w/"): v for k, v in a.items() if k.startswith("w/")}
    non_object = state.pop("non_object_embedding")
    tower, params = towers.text(state, meta["config"])
    ids = a["in/tokens"]
    run = jax.jit(lambda p, x: tower.apply({"params": p}, x))
    out = np.asarray(run(params, ids.reshape(-1, ids.shape[-1]))).reshape(*ids.shape[:2], -1)
    return a, meta, out, non_object


@CASE
def test_maft_golden_templates_and_names(path):
    a, meta, _, _ = encoded(path)
    assert list(templates("vild14")) == meta["templates"]
    prompts = [fill(t, name) for t in meta["templates"] for name in meta["class_names"]]
    ids = openai_tokenizer().encode(prompts).reshape(a["in/tokens_real_bpe"].shape)
    np.testing.assert_array_equal(ids, a["in/tokens_real_bpe"])


@CASE
def test_maft_golden_text_features(path, monkeypatch):
    a, meta, out, non_object = encoded(path)
    np.testing.assert_allclose(out, a["out/per_template_unnormalised"], atol=1e-4)
    # The golden's own tokens: the names reach the classifier as embeddings, all templates of each.
    rows = unit_rows(out.swapaxes(0, 1).reshape(-1, out.shape[-1]))
    monkeypatch.setattr(classifier, "encode_texts", lambda *args, **settings: rows)
    stand_in: Any = types.SimpleNamespace(config=types.SimpleNamespace(embed_dim=out.shape[-1]))
    classes = classifier.encode_names(stand_in, meta["class_names"], meta["templates"])
    np.testing.assert_allclose(classes, a["out/class_text_features"], atol=1e-5)
    rows = with_non_object(classes, non_object)
    np.testing.assert_allclose(rows, a["out/text_features_with_nonobject"], atol=1e-5)
    order = [meta["class_names"].index(name) for name in meta["reordered_names"]]
    again = with_non_object(classes[order], non_object)
    np.testing.assert_allclose(again, a["out/reordered_call"], atol=1e-5)
    # Wrong on purpose: averaging before scaling each template to unit length.
    mean = out.mean(0)
    mean = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    assert np.abs(mean - a["out/class_text_features"]).max() > 1e-4

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.models.clip import CLIP, normalize
from openseg_jax.text import classifier
from openseg_jax.text.classifier import encode_texts, text_classifier
from openseg_jax.text.prompts import fill, templates
from openseg_jax.weights.loaded import LoadedClip
from openseg_jax.weights.report import Report
from tests.weights.tiny import (
    CLIP_MU,
    PREPROCESS,
    PROVENANCE,
    SIGLIP_MU,
    WORDS,
    random_params,
    tokenizer,
)


def loaded(config=CLIP_MU, seed=0, context=None):
    config = dataclasses.replace(
        config,
        text=dataclasses.replace(config.text, context=context or config.text.context),
    )
    params = random_params(config, seed)
    return LoadedClip(
        config, params, PREPROCESS, tokenizer(config), PROVENANCE, {}, Report(file="memory")
    )


def direct(clip, sentences):
    """Encodes all sentences in one batch at the full context."""
    ids = jnp.asarray(clip.tokenizer.encode(sentences))
    encode = jax.jit(lambda params: CLIP(clip.config).apply(params, ids, method=CLIP.encode_text))
    return np.asarray(normalize(encode({"params": clip.params})))


SENTENCES = ["zebra", "a photo of a zebra", "lemon on grass", "zebra", "", "a " * 30, "a " * 9]


@pytest.mark.parametrize("chunk", [1, 3, 64])
@pytest.mark.parametrize("config", [CLIP_MU, SIGLIP_MU])
def test_chunks_equal_one_by_one(config, chunk):
    clip = loaded(config)
    got = encode_texts(clip, SENTENCES, chunk=chunk)
    np.testing.assert_allclose(got, direct(clip, SENTENCES), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
    assert (got[0] == got[3]).all()


def test_short_rows_change_nothing():
    # The context of 77 is cut to 16 or 32 where the end of text allows it.
    clip = loaded(context=77)
    sentences = ["a " * n + "zebra" for n in (1, 13, 14, 20, 29, 30, 40, 90)]
    lengths = classifier._row_lengths(clip.tokenizer.encode(sentences), clip.config.text)
    assert lengths.tolist() == [16, 16, 32, 32, 32, 77, 77, 77]
    np.testing.assert_allclose(encode_texts(clip, sentences), direct(clip, sentences), atol=2e-6)


def test_a_row_cut_too_short_is_another_embedding():
    clip = loaded(context=77)
    ids = clip.tokenizer.encode(["a " * 20 + "zebra"])
    encode = classifier._encoder(clip.config.text, clip.config.embed_dim, jnp.float32)
    whole, cut = (np.asarray(encode(clip.params["text"], ids[:, :n])) for n in (77, 16))
    assert np.abs(whole - cut).max() > 1e-2


def test_equal_sentences_are_encoded_once_and_progress_is_told():
    seen = []
    encode_texts(loaded(), ["zebra"] * 100 + ["lemon"], progress=lambda *x: seen.append(x))
    assert seen == [(2, 2)]


def test_nothing_gives_nothing():
    assert encode_texts(loaded(), []).shape == (0, CLIP_MU.embed_dim)


def test_classifier_is_the_mean_of_unit_vectors():
    clip = loaded()
    group = templates("vild14")
    got = text_classifier(clip, ["zebra", "grass"], group)
    for row, name in zip(got, ["zebra", "grass"], strict=True):
        mean = direct(clip, [fill(t, name) for t in group]).mean(axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=2e-6)


def test_synonyms_by_comma_are_a_choice():
    clip, group = loaded(), ("a photo of a {}",)
    whole = text_classifier(clip, ["zebra, lemon"], group)
    both = text_classifier(clip, ["zebra, lemon"], group, synonyms=True)
    each = text_classifier(clip, ["zebra", "lemon"], group).mean(axis=0)
    np.testing.assert_allclose(both[0], each / np.linalg.norm(each), atol=2e-6)
    assert np.abs(whole - both).max() > 1e-3


def test_the_cache_follows_weights_names_and_templates():
    clip, group = loaded(), templates("simple")
    first = text_classifier(clip, ["zebra"], group)
    assert text_classifier(loaded(), ["zebra"], group) is first
    assert text_classifier(clip, ["lemon"], group) is not first
    assert text_classifier(clip, ["zebra"], templates("plain")) is not first
    assert text_classifier(clip, ["zebra"], group, dtype=jnp.bfloat16) is not first
    assert text_classifier(loaded(seed=1), ["zebra"], group) is not first
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 0


def test_the_cache_forgets_the_oldest():
    cache = classifier._Cache(limit=3 * 8)
    for key in "abc":
        cache.put(key, np.zeros(1))
    cache.get("a")
    cache.put("d", np.zeros(1))
    assert [k for k in "abcd" if cache.get(k) is not None] == ["a", "c", "d"]


@pytest.mark.parametrize(
    ("names", "group", "match"),
    [
        ([], ["{}"], "names: expected at least one"),
        (["zebra"], [], "templates: expected at least one"),
        (["zebra", "  "], ["{}"], "remove the empty name"),
        (["zebra"], ["no place"], r"one \{\}"),
    ],
)
def test_bad_input_is_named(names, group, match):
    with pytest.raises(UserError, match=match):
        text_classifier(loaded(), names, group)


def test_five_thousand_labels_stay_in_bounds(monkeypatch):
    # Not the model's speed but the bookkeeping: how many prompts are in flight at once.
    most = 0

    def count(clip, sentences, **_):
        nonlocal most
        most = max(most, len(sentences))
        return np.ones((len(sentences), clip.config.embed_dim), np.float32)

    monkeypatch.setattr(classifier, "encode_texts", count)
    told = []
    names = [f"{w} {i}" for i in range(1000) for w in WORDS[:5]]
    out = text_classifier(loaded(), names, templates("car15"), progress=lambda *x: told.append(x))
    assert out.shape == (5000, CLIP_MU.embed_dim)
    assert most <= 256 * 15
    assert told[-1] == (75000, 75000) and len(told) == 20


def test_bfloat16_is_close():
    clip = loaded()
    full = encode_texts(clip, SENTENCES)
    half = encode_texts(clip, SENTENCES, dtype=jnp.bfloat16)
    assert 0 < np.abs(full - half).max() < 2e-2

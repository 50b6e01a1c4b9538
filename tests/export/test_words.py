"""Names become the same embeddings in an export as in the methods themselves."""

from __future__ import annotations

import numpy as np
import pytest

from openseg_jax.export.words import (
    BUILD,
    ExportError,
    padded_count,
    parse_labels,
    tokens_of,
)
from openseg_jax.inputs import labels as library_labels
from openseg_jax.methods import car_texts, clip_dense_texts, maft_texts, segclip_texts
from openseg_jax.methods.car_config import CaRConfig
from openseg_jax.methods.clip_dense_config import ClipDenseConfig
from openseg_jax.methods.maft_config import MaftConfig
from openseg_jax.methods.segclip_config import SegClipConfig
from openseg_jax.text.classifier import encode_texts
from openseg_jax.text.tokenizer import HfTokenizer, load_tokenizer, openai_tokenizer
from openseg_jax.weights.load import load_clip

NAMES = ["zebra, lemon", "grass", "scene"]
ROWS = {"least": 8, "most": 256}
TEMPLATES = ("a photo of {}", "a clean {}")
BACKGROUND = ("sky", "grass")


@pytest.fixture(scope="module")
def clip(tiny_model):
    return load_clip(str(tiny_model))


def encoder(clip, *, unit=True):
    return lambda tower, sentences: encode_texts(clip, sentences, unit=unit)


def recipe(**more):
    return {
        "templates": list(TEMPLATES), "background": list(BACKGROUND), "keep_shared": False,
        "rows": ROWS, **more,
    }  # fmt: skip


def check(wanted, arrays):
    for name, array in arrays.items():
        want = np.asarray(getattr(wanted, name))
        some = tuple(slice(n) for n in want.shape)
        np.testing.assert_allclose(array[some], want, atol=1e-6, err_msg=name)
        beyond = array.copy()
        beyond[some] = 0
        assert not beyond.any(), name


@pytest.mark.parametrize("background", [None, (), ("of", "zebra")])
def test_maft_and_segclip(clip, background):
    wanted = maft_texts.build(
        MaftConfig(templates=TEMPLATES, background=BACKGROUND, seen=("grass",)), clip, NAMES,
        background,
    )  # fmt: skip
    check(wanted, BUILD["maft"](recipe(seen=["grass"]), encoder(clip), NAMES, background))
    wanted = segclip_texts.build(
        SegClipConfig(templates=TEMPLATES, background=BACKGROUND), clip, NAMES, background
    )
    check(wanted, BUILD["segclip"](recipe(), encoder(clip, unit=False), NAMES, background))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("background", [None, (), ("of", "zebra")])
def test_clip_dense(clip, background, shared):
    config = ClipDenseConfig(templates=TEMPLATES, background=BACKGROUND, keep_shared=shared)
    wanted = clip_dense_texts.build(config, clip, NAMES, background)
    arrays = BUILD["clip_dense"](
        recipe(synonyms=4, keep_shared=shared), encoder(clip), NAMES, background
    )
    # More places for synonyms repeat the first.
    members = arrays.pop("members")
    assert (members[:, :2] == wanted.members).all()
    assert (members[:, 2:] == members[:, :1]).all()
    check(wanted, arrays)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("background", [None, (), ("of", "scene")])
def test_car(clip, background, raw):
    config = CaRConfig(
        templates=TEMPLATES, background=BACKGROUND, raw_names_first_step=raw, shared_background=raw
    )
    wanted = car_texts.build(config, clip, clip, NAMES, background)
    arrays = BUILD["car"](
        recipe(cam_template=config.cam_template, raw_first=raw, keep_shared=raw), encoder(clip),
        NAMES, background,
    )  # fmt: skip
    check(wanted, arrays)


def test_tokens_are_the_tokenizers(clip, tmp_path):
    first = clip.tokenizer.start
    # LiT's rows have no end.
    endless = HfTokenizer(clip.tokenizer.pipeline, context=8, start=first, end=None, pad=0)
    for tokenizer in (clip.tokenizer, openai_tokenizer(16), endless):
        tokenizer.save(tmp_path)
        about = {**tokenizer.to_dict(), "file": "tokenizer.json"}
        texts = ["a photo of a Zebra.", "", "grass " * 40, "naïve café, 3 of them"]
        for clean in ("none", "lower", "canonicalize"):
            about["clean"] = clean
            entry = {name: about[name] for name in about if name != "file"}
            wanted = load_tokenizer(tmp_path, entry).encode(texts)
            rows = [tokens_of(about, tmp_path)(text) for text in texts]
            np.testing.assert_array_equal(np.stack(rows), wanted)


def test_labels_are_read_as_by_the_command_line():
    text = 'zebra,  "person, people" , Zebra,, tall\tgrass\nsky, a\\,b, "c"'
    wanted, _ = library_labels.merge_duplicates(library_labels.parse_labels(text))
    assert parse_labels(text) == wanted


def test_a_quote_that_is_never_closed_is_told():
    with pytest.raises(ExportError, match="never closed"):
        parse_labels('zebra, "grass')


def test_too_many_names_are_refused(clip):
    assert padded_count(9, ROWS) == 16 and padded_count(3, {"least": 24, "most": None}) == 24
    with pytest.raises(ExportError, match="at most 256"):
        padded_count(257, ROWS)
    with pytest.raises(ExportError, match="synonyms"):
        BUILD["clip_dense"](recipe(synonyms=1), encoder(clip), NAMES, None)

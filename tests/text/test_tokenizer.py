import gzip
import hashlib
import importlib.resources
import json

import numpy as np
import pytest
import sentencepiece

from openseg_jax.errors import UserError
from openseg_jax.text.clip_bpe import END, START, clip_tokenizer, read_merges, vocabulary
from openseg_jax.text.prompts import TEMPLATES
from openseg_jax.text.tokenizer import (
    SentencePieceTokenizer,
    load_tokenizer,
    openai_tokenizer,
    word_tokenizer,
)
from openseg_jax.weights.vocabulary import clip_vocabulary, siglip_vocabulary
from tests.text import bpe_oracle
from tests.weights.torch_side import libraries

ODD = [
    "a photo of a cat",
    "A  Photo\tof\n\nA CAT!",
    "it's the zebra's, we'll they're I'd I'm can't've",
    "café naïve Ångström résumé",
    "cafe\u0301 decomposed",
    "猫と犬 中文 한국어",
    "🦓 zebra 👩‍👩‍👧 family 🏳️‍🌈",
    "3.14159 1,000,000 r2d2 ½ ² ⅷ",
    "'quoted' \"double\" `tick` ‘curly’ “curly”",
    "a_b-c/d\\e|f",
    "<html>&amp;</html> https://example.org/?q=1",
    "…—–•§¶",
    "Straße ΑΘΗΝΑ МОСКВА عربى हिन्दी ไทย",
    "x" * 300,
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "",
    "   ",
    "\u200bzero\u200bwidth\ufeff",
    "person with clothes,people,human",
    "tv/monitor (television) [screen] {display}",
]


@pytest.mark.parametrize("text", ODD)
def test_bpe_equals_the_oracle(text):
    assert openai_tokenizer().tokens(text) == bpe_oracle.encode(text)


def test_bpe_equals_the_oracle_on_all_prompts():
    tokenizer = openai_tokenizer()
    for group in TEMPLATES.values():
        for template in group.templates:
            text = template.replace("{}", "potted plant")
            assert tokenizer.tokens(text) == bpe_oracle.encode(text)


def test_known_ids():
    # "a photo of a cat" and "hello world!" as OpenAI's notebook prints them.
    row = openai_tokenizer().encode(["a photo of a cat", "hello world!"])
    assert row[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
    assert row[1, :6].tolist() == [49406, 3306, 1002, 256, 49407, 0]
    assert row.shape == (2, 77) and row.dtype == np.int32


def test_the_vocabulary_is_openai_s():
    merges = read_merges()
    ids = vocabulary(merges)
    assert len(merges) == 48894 and len(ids) == 49408
    assert (ids[START], ids[END]) == (49406, 49407)
    assert (ids["!"], ids["!</w>"], ids["in"]) == (0, 256, 512)
    assert merges[:2] == [("i", "n"), ("t", "h")]
    packed = importlib.resources.files("openseg_jax.text").joinpath("clip_bpe.txt.gz").read_bytes()
    assert packed[4:8] == b"\0\0\0\0", "no time stamp: equal content gives equal bytes"
    digest = hashlib.sha256(gzip.decompress(packed)).hexdigest()
    assert digest == "d308b7377a8ceaa9707a21614fe8c831b9196e197b7aeb69833359362907af02"
    notice = importlib.resources.files("openseg_jax.text").joinpath("clip_bpe_NOTICE.txt")
    assert "Copyright (c) 2021 OpenAI" in notice.read_text()


def test_equals_transformers(tmp_path):
    _, transformers = libraries()
    merges = read_merges()
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary(merges)))
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (tmp_path / "merges.txt").write_text("\n".join(lines) + "\n")
    files = str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")
    theirs = transformers.CLIPTokenizer(*files)
    ours = openai_tokenizer()
    folder = clip_vocabulary(tmp_path, context=77, vocab_size=49408, pad_end=True)
    for text in ODD:
        want = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.tokens(text) == want, text
        assert folder.tokens(text) == want, text
    assert folder.pad == 49407


@pytest.mark.parametrize("words", [75, 76, 500])
def test_too_long_keeps_the_end(words):
    text = " ".join(["zebra"] * words)
    tokenizer = openai_tokenizer()
    row = tokenizer.encode([text])[0]
    assert row[0] == 49406 and row[76] == 49407
    assert row.argmax() == 76
    assert (row[1:76] == row[1]).all()
    if words == 75:
        tokenizer.encode([text], long="error")
    else:
        with pytest.raises(UserError, match=f"at most 77 tokens, got {words + 2}"):
            tokenizer.encode([text], long="error")


def test_padding_rule_is_the_family_s():
    assert openai_tokenizer().encode(["a"])[0, -1] == 0
    assert openai_tokenizer(pad=None).encode(["a"])[0, -1] == 49407


def test_wrong_arguments_are_named():
    with pytest.raises(UserError, match="got one string"):
        openai_tokenizer().encode("a photo")
    with pytest.raises(UserError, match="expected strings, got int"):
        openai_tokenizer().encode([3])


def test_no_texts_give_no_rows():
    assert openai_tokenizer().encode([]).shape == (0, 77)


def test_bytes_know_every_word():
    tokenizer = openai_tokenizer()
    assert tokenizer.unknown("🦓 猫 qwxz") == []
    assert tokenizer.unknown("  ") == ["  "]


def test_word_tokenizer_and_its_unknown_words(tmp_path):
    tokenizer = word_tokenizer(["a", "zebra", "on", "grass"], 8)
    row = tokenizer.encode(["A zebra, on-Grass!"])[0]
    assert row.tolist() == [6, 2, 3, 4, 5, 7, 0, 0]
    assert tokenizer.encode(["a lion"])[0].tolist() == [6, 2, 1, 7, 0, 0, 0, 0]
    assert tokenizer.unknown("a Lion on 🦓 lion") == ["Lion", "🦓", "lion"]
    assert tokenizer.unknown("...") == ["..."]
    assert tokenizer.encode([""])[0].argmax() == 1
    with pytest.raises(UserError, match="duplicates"):
        word_tokenizer(["a", "a"], 8)


def test_save_and_load(tmp_path):
    for i, tokenizer in enumerate([openai_tokenizer(), word_tokenizer(["zebra"], 9)]):
        folder = tmp_path / str(i)
        folder.mkdir()
        tokenizer.save(folder)
        entry = json.loads(json.dumps(tokenizer.to_dict()))
        back = load_tokenizer(folder, entry)
        np.testing.assert_array_equal(back.encode(ODD), tokenizer.encode(ODD))
        assert back.to_dict() == tokenizer.to_dict()


def test_what_a_file_says_about_rows_is_ignored(tmp_path):
    pipeline = clip_tokenizer()
    pipeline.enable_truncation(5)
    pipeline.enable_padding(length=5)
    pipeline.save(str(tmp_path / "tokenizer.json"))
    back = clip_vocabulary(tmp_path, context=77, vocab_size=49408, pad_end=False)
    assert back.tokens("a photo of a cat on the grass") == openai_tokenizer().tokens(
        "a photo of a cat on the grass"
    )


@pytest.mark.parametrize("content", ["", "{", "{}", '{"model": 3}'])
def test_broken_files_are_named(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    (tmp_path / "tokenizer.model").write_text(content)
    rows = {"context": 8, "start": None, "end": 1, "pad": 0, "clean": "none"}
    with pytest.raises(UserError, match=r"tokenizer\.json: expected a tokenizer"):
        load_tokenizer(tmp_path, {"kind": "hf", **rows})
    with pytest.raises(UserError, match=r"tokenizer\.model: expected a sentencepiece"):
        load_tokenizer(tmp_path, {"kind": "sentencepiece", **rows})


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sp")
    (folder / "text.txt").write_text("a photo of a zebra on the grass\nlemons and zebras\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "m"), vocab_size=40,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return (folder / "m.model").read_bytes()


def test_sentencepiece_rows_follow_big_vision(tmp_path, pieces):
    (tmp_path / "spiece.model").write_bytes(pieces)
    first = siglip_vocabulary(tmp_path, context=16, vocab_size=32000)
    second = siglip_vocabulary(tmp_path, context=16, vocab_size=256000)
    row = first.encode(["A Photo of a Zebra"])[0]
    inside = list(first.processor.encode("a photo of a zebra"))
    assert row.tolist() == inside + [1] * (16 - len(inside))
    assert second.encode(["A Photo of a Zebra"])[0].tolist() == [*inside, 1] + [0] * (
        15 - len(inside)
    )
    # Sticky: an over-long sentence still ends in the end token.
    assert first.encode(["zebra " * 50])[0, -1] == 1
    assert second.encode(["zebra " * 50])[0, -1] == 1


def test_sentencepiece_canonicalises_and_reports_unknown_words(tmp_path, pieces):
    rows = {"context": 16, "start": None, "end": 1, "pad": 1}
    plain = SentencePieceTokenizer(pieces, clean="lower", **rows)
    clean = SentencePieceTokenizer(pieces, clean="canonicalize", **rows)
    np.testing.assert_array_equal(
        clean.encode(["A photo_of a ZEBRA."]), plain.encode(["a photo of a zebra"])
    )
    assert (clean.encode(["a zebra."]) != plain.encode(["a zebra."])).any()
    assert plain.unknown("a zebra 猫") == ["猫"]
    plain.save(tmp_path)
    back = load_tokenizer(tmp_path, plain.to_dict())
    np.testing.assert_array_equal(back.encode(["a zebra"]), plain.encode(["a zebra"]))


def test_rows_are_spelt_for_people():
    clip = openai_tokenizer()
    row = clip.encode(["A photo of a Zebra, 3 m away"])[0]
    assert clip.decode(row) == "a photo of a zebra , 3 m away"
    assert openai_tokenizer(6).decode(openai_tokenizer(6).encode(["a b c d e f g"])[0]) == "a b c d"
    words = word_tokenizer(["red", "lemon"], 6)
    assert words.decode(words.encode(["red lemon, red"])[0]) == "red lemon red"

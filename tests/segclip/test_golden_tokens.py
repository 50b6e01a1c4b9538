"""SegCLIP golden: token ids of captions in training and of prompts in evaluation."""

import json

import numpy as np
import pytest

from openseg_jax.inputs.pairs import clean_caption
from openseg_jax.text.tokenizer import openai_tokenizer
from tests import golden

PATHS = sorted((golden.root() / "segclip").glob("tokens*.json"))
CASE = pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)


@CASE
def test_segclip_golden_tokens(path):
    cases = json.loads(path.read_text())["cases"]
    assert cases
    truncated = long = False
    for case in cases:
        for key in (k for k in case if k.startswith("train") and k.endswith("_ids")):
            want = case[key]
            got = openai_tokenizer(len(want)).encode([clean_caption(case["text"])])[0]
            np.testing.assert_array_equal(got, want, err_msg=case["text"])
            truncated |= want[-1] != 0
            long |= len(case["eval77_ids_unpadded"]) >= len(want)
        want = case["eval77_ids_unpadded"]
        got = openai_tokenizer(77).encode([clean_caption(case["text"])])[0]
        np.testing.assert_array_equal(got[: len(want)], want, err_msg=case["text"])
        assert not got[len(want) :].any()
        # The test can fail: without the start of text nothing is where it should be.
        assert got[1] != want[0]
    assert truncated == long

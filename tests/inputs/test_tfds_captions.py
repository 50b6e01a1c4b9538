"""TFDS through a stand-in: the rows of coco_captions, and what is said where it is missing."""

import sys

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.inputs.tfds_captions import TfdsCaptions, open_tfds
from tests.inputs.captioned import CAPTIONS, FakeTfds, pairs


def test_each_caption_is_an_example(monkeypatch):
    fake = FakeTfds(pairs(3))
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    found = open_tfds("coco_captions", folder="there", per_image=2)
    assert fake.asked == ("coco_captions", "there") and len(found) == 6
    assert [found[i][1] for i in (2, 3)] == [CAPTIONS[1], CAPTIONS[1].upper()]
    assert found[3][0] == pairs(3)[1][0] and found.name(3) == "TFDS example 1"


@pytest.mark.parametrize(
    "captions, want",
    [
        ("one", ["one", "one"]),
        ([{"text": b"one"}, {"text": "two"}], ["one", "two"]),
        ({"text": ["one", "two"]}, ["one", "two"]),
        (np.array([], object), ["", ""]),
    ],
)
def test_shapes_of_captions(captions, want):
    found = TfdsCaptions([{"image": b"", "captions": captions}], per_image=2)
    assert [found[i][1] for i in range(2)] == want


def test_missing_library_and_missing_data(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"pip install 'openseg_jax\[data\]'"):
        open_tfds("coco_captions")
    fake = FakeTfds([], error=ValueError("no such builder"))
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    with pytest.raises(UserError, match=r"no such builder; run: tfds build coco --file"):
        open_tfds("coco")

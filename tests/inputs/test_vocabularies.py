import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.inputs.labels import read_labels
from openseg_jax.inputs.vocabularies import (
    _folder,
    split,
    split_names,
    vocabulary,
    vocabulary_names,
)

SIZES = {"coco_stuff171": 171, "voc20": 20, "pc59": 59, "pc459": 459, "ade150": 150, "ade847": 847}
SPLITS = {"coco_stuff_156_15": (156, 15), "voc_15_5": (15, 5), "ade847_572_275": (572, 275)}


@pytest.mark.parametrize("name", SIZES)
def test_vocabularies_are_whole(name):
    found = vocabulary(name)
    assert len(found.names) == SIZES[name] and found.source
    assert len(set(found.names)) == SIZES[name]
    assert found.raw is None or len(set(found.raw)) == SIZES[name]
    assert read_labels(_folder("vocabularies") / f"{name}.txt") == list(found.names)


@pytest.mark.parametrize("name", SPLITS)
def test_splits_divide_their_vocabulary(name):
    found = split(name)
    seen, unseen = SPLITS[name]
    assert (int((~found.unseen).sum()), int(found.unseen.sum())) == (seen, unseen)
    assert found.source


def test_what_the_splits_hide():
    hidden = split("voc_15_5")
    assert hidden.unseen.nonzero()[0].tolist() == [15, 16, 17, 18, 19]
    hidden = split("coco_stuff_156_15")
    names = np.array(hidden.vocabulary.names)[hidden.unseen]
    assert {"cow", "giraffe", "wall-concrete", "tree"} < set(names)


def test_unknown_names_offer_the_nearest():
    with pytest.raises(UserError, match="did you mean 'coco_stuff171'"):
        vocabulary("coco_stuf171")
    with pytest.raises(UserError, match="did you mean 'voc_15_5'"):
        split("voc_15-5")
    assert set(SIZES) <= set(vocabulary_names()) and set(SPLITS) == set(split_names())

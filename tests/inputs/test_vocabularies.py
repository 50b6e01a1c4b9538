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

SIZES = {
    "voc20": 20, "voc21": 21, "car_voc": 20, "segclip_voc": 21,
    "pc59": 59, "pc60": 60, "pc459": 459, "car_pascal_context": 59, "segclip_context": 60,
    "coco_object81": 81, "car_coco": 80, "coco_stuff171": 171,
    "ade150": 150, "ade150_synonyms": 150, "car_ade150": 150, "ade847": 847,
    "cityscapes19": 19,
}  # fmt: skip
# The largest id that a data set's own files may hold, and whether classes follow their order.
RAW = {
    "voc": (20, True), "context": (458, True), "459": (459, True), "object": (90, True),
    "stuff": (181, True), "150": (150, True), "847": (256 * 26, False), "city": (33, True),
}  # fmt: skip
FAMILIES = {
    "voc20": "voc", "voc21": "voc", "pc59": "context", "pc60": "context", "pc459": "459",
    "coco_object81": "object", "coco_stuff171": "stuff", "ade150": "150", "ade847": "847",
    "cityscapes19": "city",
}  # fmt: skip
SPLITS = {"coco_stuff_156_15": (156, 15), "voc_15_5": (15, 5), "ade847_572_275": (572, 275)}


def test_every_file_is_counted_here():
    assert set(SIZES) == set(vocabulary_names()) and set(SPLITS) == set(split_names())


@pytest.mark.parametrize("name", SIZES)
def test_vocabularies_are_whole(name):
    found = vocabulary(name)
    assert len(found.names) == SIZES[name]
    assert len(set(found.names)) == SIZES[name]
    assert all(text == " ".join(text.split()) and text for text in found.names)
    assert "http" in found.source and found.licence and found.spelling
    rows = (_folder("vocabularies") / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    ids = [int(row.split("\t")[0]) for row in rows if not row.startswith("#")]
    assert sorted(ids) == list(range(SIZES[name]))
    assert read_labels(_folder("vocabularies") / f"{name}.txt") == list(found.names)


@pytest.mark.parametrize("name", SIZES)
def test_ids_of_the_own_files(name):
    found = vocabulary(name)
    highest, ascending = RAW[FAMILIES[found.variant_of or name]]
    assert found.raw is not None and len(set(found.raw)) == len(found.raw) == SIZES[name]
    assert min(found.raw) >= 0 and max(found.raw) <= highest
    assert not ascending or list(found.raw) == sorted(found.raw)
    assert (found.raw[0] == 0) == (found.background or name == "coco_stuff171")
    assert len(found.foreground) == SIZES[name] - found.background


def test_variants_spell_the_same_classes_otherwise():
    variants = [vocabulary(name) for name in SIZES if vocabulary(name).variant_of]
    assert len(variants) == 7
    for found in variants:
        base = vocabulary(found.variant_of)
        assert base.raw is not None and found.raw is not None
        assert base.raw[len(base.raw) - len(found.raw) :] == found.raw, found.name
        assert found.foreground != base.foreground and found.spelling != base.spelling
    assert vocabulary("voc20").raw == vocabulary("voc21").raw[1:]
    assert vocabulary("pc59").raw == vocabulary("pc60").raw[1:]
    assert vocabulary("coco_object81").raw[1:] == tuple(
        value + 1 for value in vocabulary("coco_stuff171").raw[:80]
    )
    assert vocabulary("coco_object81").foreground == vocabulary("coco_stuff171").names[:80]


def test_classes_are_in_the_order_of_their_ids_and_things_are_told_from_stuff():
    found = vocabulary("car_pascal_context")
    assert found.names[:4] == ("airplane", "bag", "bed", "bedclothes")
    assert found.things[:4] == (True, True, True, False) and sum(found.things) == 38
    assert sum(vocabulary("car_ade150").things) == 125
    assert vocabulary("voc20").things is None


@pytest.mark.parametrize("name", SPLITS)
def test_splits_divide_their_vocabulary(name):
    found = split(name)
    seen, unseen = SPLITS[name]
    assert (int((~found.unseen).sum()), int(found.unseen.sum())) == (seen, unseen)
    assert found.source and found.licence


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

"""MAFT's setups: what a config opens, and what a model folder keeps."""

from typing import Any

import jax
import numpy as np
import pytest

from openseg_jax.cli.train import load_config, override
from openseg_jax.errors import UserError
from openseg_jax.inputs.augment import IGNORE
from openseg_jax.miniature import streams
from openseg_jax.miniature.world import CLASS_NAMES, UNSEEN_THINGS, class_id
from openseg_jax.train import setup
from openseg_jax.train.mask_inputs import (
    MiniatureScenes,
    by_regions,
    labelled_regions,
    miniature_classes,
)
from openseg_jax.weights.load import load_clip

HIDDEN = [class_id(name) for name in UNSEEN_THINGS]


def build(*settings: str) -> Any:
    return setup.build(override(load_config("maft_stage2:tiny"), settings))


def test_the_miniature_shows_no_mask_of_unseen_things():
    built = build("input.masks.count=24", "input.masks.segments=12")
    assert not set(built.inputs.classes) & set(UNSEEN_THINGS)
    names, secrets = built.inputs.classes, 0
    for index in range(12):
        scene = streams.scene("train", index, 64)
        example = built.source[index]
        np.testing.assert_array_equal(example["image"], scene.image)
        secret = np.isin(scene.semantic, HIDDEN)
        secrets += secret.sum()
        assert not (example["segments"] & secret).any()
        for row in example["segment_valid"].nonzero()[0]:
            kind = CLASS_NAMES.index(names[example["segment_class"][row]]) + 1
            np.testing.assert_array_equal(example["segments"][row], scene.semantic == kind)
        assert example["proposals"].shape == (24, 64, 64) and example["proposals_valid"].all()
    assert secrets > 1000


def test_regions_of_labels_leave_out_what_is_ignored():
    labels = MiniatureScenes(64, 0)(5)[1]
    found = labelled_regions(labels)
    assert not (found & (labels == IGNORE)).any()
    assert len(miniature_classes().names) == len(CLASS_NAMES) - len(UNSEEN_THINGS)


def test_region_proposals_have_a_fixed_number():
    image = streams.scene("train", 0, 64).image
    labels = np.zeros((64, 64), int)
    masks, valid = by_regions(image, labels, 0, 0, count=200, seed=0)
    assert masks.shape == (200, 64, 64) and 4 < valid.sum() < 200
    assert masks[valid].any(axis=(1, 2)).all() and not masks[~valid].any()


def test_proposals_are_as_coarse_as_asked():
    built = build("input.masks.stride=4")
    example = built.source[0]
    assert example["proposals"].shape[1:] == (16, 16)
    assert example["segments"].shape[1:] == (64, 64)


@pytest.mark.parametrize(
    "setting, said",
    [
        ("input.name=nothing", "miniature"),
        ("input.masks.proposals=nois", "did you mean 'noisy'"),
        ("task.maft.templates=vild", "did you mean 'vild14'"),
        ("task.maft.parity=referenc", "did you mean 'reference'"),
        ("init=", "a CLIP to start from"),
    ],
)
def test_errors_say_what_to_do(setting, said):
    with pytest.raises(UserError, match=said):
        build(setting)


def test_a_generator_must_be_in_the_weights():
    built = build("input.masks.proposals=generator")
    with pytest.raises(UserError, match=r"input\.masks\.proposals=regions"):
        assert built.task


def test_the_folder_keeps_clip_and_what_was_learnt(tmp_path):
    built = build()
    params, _ = built.task.init(jax.random.key(0), built.source[0])
    params = jax.tree.map(lambda x: np.asarray(x) * 1.5, params)
    about = {"name": "x", "source": "a test", "licence": "?", "saw": "nothing"}
    built.save(tmp_path / "model", params, about, {}, "float32")
    found, clip = load_clip(tmp_path / "model"), load_clip("miniature")
    assert found.extras_config["maft"]["start"] == built.task.start
    assert found.extras_config["maft"]["size"] == clip.config.vision.image_size
    tower = found.extras["maft"]["visual"]["ln_post"]["scale"]
    own = clip.params["visual"]["ln_post"]["scale"]
    np.testing.assert_allclose(tower, 1.5 * own, rtol=1e-6)
    np.testing.assert_allclose(found.params["visual"]["ln_post"]["scale"], own, rtol=1e-6)
    assert clip.provenance["saw"] in found.provenance["saw"]

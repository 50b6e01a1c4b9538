import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.miniature import streams
from openseg_jax.miniature.noisy_proposals import KINDS, noisy_proposals, regions
from openseg_jax.miniature.world import THINGS, UNSEEN_THINGS, class_id

HIDDEN = [class_id(name) for name in UNSEEN_THINGS]


def made(index, count=32, **kwargs):
    scene = streams.scene("train", index, 64)
    truth = regions(scene)
    return scene, truth, noisy_proposals("train", index, truth, count, **kwargs)


def test_the_same_index_gives_the_same_proposals_and_another_gives_others():
    first, again, other = made(3)[2], made(3)[2], made(4)[2]
    np.testing.assert_array_equal(first.masks, again.masks)
    assert (first.masks != other.masks).any()


@pytest.mark.parametrize("count", [1, 7, 32, 100])
def test_the_number_is_fixed_and_no_mask_is_empty(count):
    for index in range(4):
        _, _, found = made(index, count)
        assert found.masks.shape == (count, 64, 64) and found.masks.dtype == bool
        assert found.masks.any(axis=(1, 2)).all() and found.valid.all()


def test_every_region_has_its_exact_proposal_and_every_kind_occurs():
    kinds = set()
    for index in range(8):
        _, truth, found = made(index, 40)
        exact = found.masks[found.kind == KINDS.index("truth")]
        for mask in truth:
            assert (exact == mask).all(axis=(1, 2)).any()
        kinds |= {KINDS[k] for k in found.kind}
    assert kinds == set(KINDS)


def test_kinds_are_what_they_say():
    for index in range(6):
        _, truth, found = made(index, 60)
        flat = truth.reshape(len(truth), -1)
        for mask, kind in zip(found.masks.reshape(60, -1), found.kind, strict=True):
            if KINDS[kind] == "dilated":
                assert any((mask >= t).all() and mask.sum() > t.sum() for t in flat)
            if KINDS[kind] == "halved":
                assert any((mask <= t).all() and 0 < mask.sum() < t.sum() for t in flat)


def test_training_regions_hide_unseen_things():
    hidden = 0
    for index in range(30):
        scene = streams.scene("train", index, 64)
        all_of, seen = regions(scene), regions(scene, unseen=False)
        secret = np.isin(scene.semantic, HIDDEN)
        assert not (seen & secret).any()
        hidden += len(all_of) - len(seen)
        assert (all_of.any(axis=0)).mean() > 0.99
    assert hidden > 10
    assert len(THINGS) > len(HIDDEN)


def test_no_region_leaves_random_ones():
    found = noisy_proposals("val", 0, np.zeros((0, 32, 32), bool), 5)
    assert {KINDS[k] for k in found.kind} == {"random"}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"stream": "tarin"}, "train"),
        ({"kinds": ("trth",)}, "truth"),
        ({"count": 0}, "1 proposal"),
    ],
)
def test_errors_say_what_to_do(change, said):
    arguments = {"stream": "train", "index": 0, "truth": np.zeros((1, 8, 8), bool)} | change
    with pytest.raises(UserError, match=said):
        noisy_proposals(**arguments)

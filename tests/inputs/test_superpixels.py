"""Superpixels: majority ids of patches, and the cache on disk."""

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.inputs import superpixels
from openseg_jax.inputs.superpixels import Felzenszwalb, Superpixels, crop_map, patch_ids

SMALL = Felzenszwalb(scale=20.0, min_size=8, short_side=0)


def picture(seed=0, size=(24, 30)):
    rng = np.random.default_rng(seed)
    image = np.kron(rng.integers(0, 256, (size[0] // 6, size[1] // 6, 3)), np.ones((6, 6, 1)))
    return image.astype(np.uint8)


def test_a_patch_takes_the_id_of_most_of_its_pixels():
    segments = np.zeros((8, 8), np.int32)
    segments[:, 5:] = 9
    np.testing.assert_array_equal(patch_ids(segments, (0, 0, 1, 1), 8, 4), [[0, 9], [0, 9]])
    # The published rule invents a superpixel on the border: 3/4 of 9, cut to 6.
    reference = patch_ids(segments, (0, 0, 1, 1), 8, 4, parity="reference")
    np.testing.assert_array_equal(reference, [[0, 6], [0, 6]])


def test_crops_that_are_too_small_give_the_whole_map():
    segments = np.arange(64).reshape(8, 8)
    np.testing.assert_array_equal(crop_map(segments, (0.5, 0.25, 1, 0.5)), segments[2:4, 4:8])
    np.testing.assert_array_equal(crop_map(segments, (0.5, 0.5, 0.51, 0.51)), segments)
    with pytest.raises(UserError, match="box"):
        crop_map(segments, (0.5, 0, 0.2, 1))


def test_large_pictures_are_reduced_to_the_short_side_first():
    tall = np.zeros((40, 20, 3), np.uint8)
    assert Felzenszwalb(short_side=10).segment(tall).shape == (20, 10)
    assert Felzenszwalb(short_side=30).segment(tall).shape == (40, 20)


def test_the_cache_is_used_shared_and_rebuilt(tmp_path, monkeypatch):
    keep = Superpixels(SMALL, tmp_path)
    first = keep(picture())
    np.testing.assert_array_equal(first, SMALL.segment(picture()))
    (file,) = tmp_path.rglob("*.npz")
    assert file == keep.path(picture())
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p != file]

    def never(self, image):
        raise AssertionError("not taken from the cache")

    with monkeypatch.context() as patch:
        patch.setattr(superpixels.Felzenszwalb, "segment", never)
        np.testing.assert_array_equal(keep(picture()), first)
        # Another picture, or other parameters, are other files.
        with pytest.raises(AssertionError):
            keep(picture(1))
        with pytest.raises(AssertionError):
            Superpixels(Felzenszwalb(scale=21.0, min_size=8, short_side=0), tmp_path)(picture())
    file.write_bytes(file.read_bytes()[:20])
    np.testing.assert_array_equal(keep(picture()), first)
    np.testing.assert_array_equal(keep(picture()), first)


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    keep = Superpixels(SMALL, tmp_path / "file" / "below")
    np.testing.assert_array_equal(keep(picture()), SMALL.segment(picture()))


def test_examples_hold_one_id_a_patch():
    out = Superpixels(SMALL).patches(picture(), (0.0, 0.0, 1.0, 1.0), 32, 8)
    assert out["superpixels"].shape == (4, 4) and out["superpixels"].dtype == np.int32
    with pytest.raises(UserError, match="multiple"):
        patch_ids(np.zeros((4, 4), int), (0, 0, 1, 1), 30, 8)
    with pytest.raises(UserError, match="reference"):
        patch_ids(np.zeros((4, 4), int), (0, 0, 1, 1), 32, 8, parity="refrence")

"""TensorFlow's resize, by hand always and against TensorFlow where it is installed."""

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.models.preprocess import fit_image
from openseg_jax.models.variants import Preprocess
from openseg_jax.ops.resize_tf import METHODS, resize_tf, to_dtype
from tests.compat.tensorflow_side import tensorflow

IMAGE = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(16, 24), (80, 60), (37, 20)])
def test_resizing_is_tensorflow_s(method, antialias, size):
    tf = tensorflow()
    want = tf.image.resize(IMAGE, size, method=method, antialias=antialias).numpy()
    got = resize_tf(IMAGE, size, method, antialias=antialias)
    if method == "nearest" or (method == "bilinear" and not antialias):
        np.testing.assert_array_equal(got, want)
        return
    np.testing.assert_allclose(got, want, atol=2e-3)
    other = resize_tf(IMAGE, size, "bilinear", antialias=not antialias)
    assert np.abs(other - want).max() > 1 or min(size) > 37


def test_bilinear_by_hand():
    """Half-pixel centres, edges clamped, truncation: what parity with SigLIP stands on."""
    row = np.array([[0, 10, 20, 31]], np.uint8)[..., None]
    got = resize_tf(row, (1, 2))
    np.testing.assert_array_equal(got[0, :, 0], [5, 25.5])
    assert to_dtype(got, np.dtype(np.uint8))[0, 1, 0] == 25
    wide = resize_tf(row, (1, 8))[0, :, 0]
    np.testing.assert_array_equal(wide[[0, 1, 2, 7]], [0, 2.5, 7.5, 31])


def test_towers_of_big_vision_see_truncated_levels():
    """SigLIP trained on levels that were cut, not rounded: half a level lower on average."""
    rule = Preprocess(16, resize="squash", interpolation="bilinear", antialias=False)
    got, exact = fit_image(IMAGE, rule), resize_tf(IMAGE, (16, 16))
    np.testing.assert_array_equal(got, np.floor(exact))
    assert -0.6 < (got - exact).mean() < -0.3


@pytest.mark.parametrize(("old", "new"), [(7, 4), (4, 7), (640, 224), (5, 5)])
def test_area_and_cubic_keep_what_is_constant(old, new):
    image = np.full((old, 3, 1), 100.0, np.float32)
    for method in METHODS:
        for antialias in (False, True):
            got = resize_tf(image, (new, 2), method, antialias=antialias)
            np.testing.assert_allclose(got, 100.0, rtol=1e-5)


def test_area_is_the_mean_of_what_it_covers():
    row = np.array([[0, 10, 20, 30]], np.uint8)[..., None]
    np.testing.assert_allclose(resize_tf(row, (1, 2), "area")[0, :, 0], [5, 25])


def test_unknown_methods_are_told():
    with pytest.raises(UserError, match="did you mean 'bilinear'"):
        resize_tf(IMAGE, (4, 4), "bilinea")

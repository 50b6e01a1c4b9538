import jax
import numpy as np
import PIL
import pytest
from PIL import Image

from openseg_jax.errors import UserError
from openseg_jax.ops import resize, resize_uint8

SIZES = [((37, 53), (48, 64)), ((90, 121), (48, 64)), ((61, 40), (17, 90)), ((8, 8), (8, 8))]


def noise(h, w, seed=0):
    rng = np.random.default_rng(seed)
    # Extremes, so that the overshoot of the bicubic kernel is clipped in both passes.
    return rng.choice(np.array([0, 3, 127, 251, 255], np.uint8), size=(h, w, 3))


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_byte_equals_pillow(method, sizes):
    (h, w), size = sizes
    image = noise(h, w)
    pair = resize_uint8.byte_pair((h, w), size, method)
    got = np.asarray(jax.jit(resize_uint8.resize_bytes)(image, pair))
    want = resize_uint8.resize_on_host(image, size, method)
    np.testing.assert_array_equal(got, want)


def test_host_path_equals_one_call_where_the_order_of_passes_is_settled():
    image = noise(90, 121)
    want = np.asarray(Image.fromarray(image).resize((64, 48), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize_uint8.resize_on_host(image, (48, 64)), want)
    if int(PIL.__version__.split(".")[0]) < 13:
        want = np.asarray(Image.fromarray(image).resize((130, 30), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(resize_uint8.resize_on_host(image, (30, 130)), want)


def test_the_order_of_the_passes_matters():
    image = noise(61, 40)
    pair = resize_uint8.byte_pair((61, 40), (17, 90))
    rows_only = resize_uint8.BytePair(pair.rows, resize_uint8.digits(np.eye(40)))
    columns_only = resize_uint8.BytePair(resize_uint8.digits(np.eye(17)), pair.columns)
    wrong = resize_uint8.resize_bytes(resize_uint8.resize_bytes(image, rows_only), columns_only)
    assert (np.asarray(wrong) != resize_uint8.resize_bytes(image, pair)).mean() > 0.05


def test_one_rounding_is_not_enough():
    image = noise(90, 121)
    want = resize_uint8.resize_on_host(image, (48, 64))
    once = resize.resize(image, (48, 64), convention="pil", method="bicubic", axes=(0, 1))
    once = np.clip(np.round(np.asarray(once)), 0, 255).astype(np.uint8)
    assert (once != want).mean() > 0.01


@pytest.mark.parametrize("size", [(90, 121), (121, 90), (50, 50), (23, 80)], ids=str)
def test_short_side_and_crop_equal_pillow(size):
    image = noise(*size)
    whole = resize.short_side_size(size, 48)
    large = resize_uint8.resize_on_host(image, whole)
    want = large[resize.crop_rows(whole[0], 48), resize.crop_rows(whole[1], 48)]
    got = resize_uint8.resize_bytes(image, resize_uint8.clip_pair(size, 48))
    np.testing.assert_array_equal(got, want)


def test_canvas_changes_nothing():
    image = noise(40, 50)
    canvas = noise(64, 64, seed=1)
    canvas[:40, :50] = image
    pair = resize_uint8.clip_pair((40, 50), 32, canvas=(64, 64))
    want = resize_uint8.resize_bytes(image, resize_uint8.clip_pair((40, 50), 32))
    np.testing.assert_array_equal(resize_uint8.resize_bytes(canvas, pair), want)
    wide = resize_uint8.byte_pair((40, 50), (48, 64), canvas=(64, 64), out_canvas=(64, 80))
    got = np.asarray(resize_uint8.resize_bytes(canvas, wide))
    np.testing.assert_array_equal(got[:48, :64], resize_uint8.resize_on_host(image, (48, 64)))
    assert not got[48:].any() and not got[:, 64:].any()


def test_batches_and_strong_shrinking():
    images = np.stack([noise(300, 20, seed=s) for s in range(3)])
    pair = resize_uint8.byte_pair((300, 20), (3, 7))
    got = jax.jit(resize_uint8.resize_bytes)(images, pair)
    for one, image in zip(np.asarray(got), images, strict=True):
        want = resize_uint8.resize_on_host(image, (3, 7))
        np.testing.assert_array_equal(one, want)
    with pytest.raises(UserError, match="512"):
        resize_uint8.byte_pair((2000, 20), (3, 7))

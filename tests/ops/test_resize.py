import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.ops import resize

SIZES = [((5, 7), (11, 20)), ((14, 14), (30, 40)), ((12, 9), (5, 4)), ((6, 6), (6, 6))]


def torch_resize(x, size, method, align):
    torch = pytest.importorskip("torch")
    y = torch.nn.functional.interpolate(
        torch.from_numpy(x)[None], size=size, mode=method, align_corners=align
    )
    return y[0].numpy()


@pytest.mark.parametrize("convention", ["half_pixel", "align_corners"])
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_matches_torch(convention, method, sizes):
    (h, w), size = sizes
    x = np.random.default_rng(0).normal(size=(3, h, w)).astype(np.float32)
    want = torch_resize(x, size, method, convention == "align_corners")
    got = resize.resize(x, size, convention=convention, method=method)
    # torch computes positions in float32: 1e-6 of a pixel, times slopes of up to 5.
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_wrong_convention_is_far_off():
    x = np.random.default_rng(0).normal(size=(1, 14, 14)).astype(np.float32)
    made = {
        (c, m): np.asarray(resize.resize(x, (30, 40), convention=c, method=m))
        for c in resize.CONVENTIONS
        for m in resize.METHODS
    }
    names = sorted(made)
    for i, one in enumerate(names):
        for other in names[:i]:
            if {one, other} == {("pil", "bilinear"), ("half_pixel", "bilinear")}:
                continue  # the same when enlarging: only the cut edges differ, and they agree
            assert np.abs(made[one] - made[other]).max() > 1e-2, (one, other)


def test_one_output_pixel_and_one_input_pixel():
    x = jnp.arange(6.0).reshape(1, 2, 3)
    assert resize.resize(x, (1, 1), convention="align_corners")[0, 0, 0] == 0.0
    assert resize.resize(x, (1, 1))[0, 0, 0] == 2.5
    one = resize.resize(jnp.full((1, 1, 1), 7.0), (4, 5), method="bicubic")
    np.testing.assert_allclose(one, np.full((1, 4, 5), 7.0), rtol=1e-6)


def test_rows_sum_to_one():
    for convention in resize.CONVENTIONS:
        for method in resize.METHODS:
            weights = resize.matrix(13, 29, convention=convention, method=method)
            np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-12)


def test_channels_last_equals_channels_first():
    x = np.random.default_rng(1).normal(size=(2, 5, 6, 3)).astype(np.float32)
    last = resize.resize(x, (9, 4), axes=(-3, -2))
    first = resize.resize(np.moveaxis(x, -1, 1), (9, 4))
    np.testing.assert_allclose(np.moveaxis(np.asarray(first), 1, -1), last, atol=1e-6)


def test_padded_matrices_change_nothing():
    x = np.random.default_rng(2).normal(size=(5, 6)).astype(np.float32)
    rows = resize.pad_matrix(resize.half_pixel(5, 9), 16, 8)
    columns = resize.pad_matrix(resize.half_pixel(6, 11), 16, 8)
    canvas = np.full((8, 8), 3.0, np.float32)
    canvas[:5, :6] = x
    got = np.asarray(jax.jit(resize.apply_matrices)(canvas, rows, columns))
    np.testing.assert_allclose(got[:9, :11], resize.resize(x, (9, 11)), atol=1e-6)
    assert not got[9:].any() and not got[:, 11:].any()


def test_sizes_and_crops_follow_torchvision():
    assert resize.short_side_size((90, 121), 48) == (48, 64)
    assert resize.short_side_size((500, 375), 224) == (298, 224)
    assert resize.crop_rows(64, 48) == slice(8, 56)
    assert resize.crop_rows(227, 224) == slice(2, 226)  # 1.5 goes to the even 2
    assert resize.crop_rows(229, 224) == slice(2, 226)  # and so does 2.5


def test_errors_name_the_argument():
    with pytest.raises(UserError, match=r"convention.*half_pixel"):
        resize.resize(jnp.zeros((2, 2)), (3, 3), convention="half_pixels")
    with pytest.raises(UserError, match=r"method.*bicubic"):
        resize.matrix(3, 4, convention="pil", method="bicubik")
    with pytest.raises(UserError, match="crop"):
        resize.crop_rows(10, 12)

"""Which patches a mask holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.ops.resize import half_pixel
from openseg_jax.ops.token_masks import reference_grid, token_masks


@pytest.mark.parametrize(
    ("size", "grid"), [((48, 48), (6, 6)), ((53, 47), (5, 4)), ((3, 4), (6, 6))]
)
def test_equals_the_resize_matrices(size, grid):
    masks = np.random.default_rng(0).random((2, 5, *size)).astype(np.float32)
    rows, columns = half_pixel(size[0], grid[0]), half_pixel(size[1], grid[1])
    soft = np.einsum("yh,bmhw,xw->bmyx", rows, masks, columns)
    clear = np.abs(soft - 0.5) > 1e-5
    got = np.asarray(token_masks(jnp.asarray(masks), grid)).reshape(soft.shape)
    np.testing.assert_array_equal(got[clear], (soft >= 0.5)[clear])


def test_ties_are_inside_at_every_ratio():
    for size in (1, 5, 13, 37):
        masks = jnp.full((1, 1, size, size + 7), 0.5)
        assert token_masks(masks, (5, 6)).all()
    assert not token_masks(jnp.full((1, 1, 9, 9), np.nextafter(np.float32(0.5), 0)), (4, 4)).any()


def test_sizes_leave_padding_out():
    masks = np.random.default_rng(1).random((2, 4, 40, 50)).astype(np.float32)
    sizes = np.asarray([[31, 50], [40, 23]])
    got = jax.jit(lambda m, s: token_masks(m, (6, 7), sizes=s))(masks, sizes)
    for i, (h, w) in enumerate(sizes):
        want = token_masks(jnp.asarray(masks[i : i + 1, :, :h, :w]), (6, 7))
        np.testing.assert_array_equal(got[i], want[0])
    other = masks.copy()
    other[0, :, 31:], other[1, :, :, 23:] = 1, 1
    np.testing.assert_array_equal(got, token_masks(jnp.asarray(other), (6, 7), sizes=sizes))


def test_reference_grid_is_square_or_refused():
    assert reference_grid((4, 9)) == (6, 6)
    with pytest.raises(UserError, match="square number under parity, got 4×7"):
        reference_grid((4, 7))

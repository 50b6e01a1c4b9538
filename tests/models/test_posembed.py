"""ops.posembed against torch.interpolate and scipy.ndimage.zoom."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from openseg_jax.errors import UserError
from openseg_jax.ops.posembed import CONVENTIONS, resample_matrix, resample_positions
from tests.weights.torch_side import INSTALL

GRIDS = [(7, 9), (20, 13), (3, 3), (14, 28)]
TORCH = {
    "bicubic_antialias": {"mode": "bicubic", "antialias": True},
    "bicubic": {"mode": "bicubic"},
    "bicubic_align_corners": {"mode": "bicubic", "align_corners": True},
    "bilinear": {"mode": "bilinear"},
}


def table(prefix=0, side=14, width=5):
    draw = np.random.default_rng(0)
    return draw.normal(size=(prefix + side * side, width)).astype(np.float32)


def torch_resample(x, grid, **options):
    torch = pytest.importorskip("torch", reason=INSTALL)
    square = torch.from_numpy(x.reshape(14, 14, -1)).permute(2, 0, 1)[None]
    out = torch.nn.functional.interpolate(square, size=grid, **options)
    return out[0].permute(1, 2, 0).reshape(grid[0] * grid[1], -1).numpy()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("convention", sorted(TORCH))
def test_equals_torch(convention, grid):
    want = torch_resample(table(), grid, **TORCH[convention])
    got = resample_positions(jnp.asarray(table()), grid, convention=convention)
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("side", [7, 20, 28])
def test_zoom_linear_equals_scipy(side):
    x = table().reshape(14, 14, -1)
    want = scipy.ndimage.zoom(x, (side / 14, side / 14, 1), order=1).reshape(side * side, -1)
    got = resample_positions(jnp.asarray(table()), (side, side), convention="zoom_linear")
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_conventions_differ():
    outs = [
        np.asarray(resample_positions(jnp.asarray(table()), (9, 20), convention=c))
        for c in CONVENTIONS
    ]
    for i, one in enumerate(outs):
        for other in outs[:i]:
            assert np.abs(one - other).max() > 0.02


@pytest.mark.parametrize("convention", sorted(CONVENTIONS))
def test_rows_sum_to_one_and_a_constant_stays(convention):
    for target in (1, 3, 14, 31):
        matrix = resample_matrix(14, target, convention)
        assert matrix.shape == (target, 14)
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("convention", sorted(CONVENTIONS))
def test_the_native_grid_is_untouched(convention):
    x = jnp.asarray(table(prefix=1))
    out = resample_positions(x, (14, 14), convention=convention, prefix=1)
    np.testing.assert_array_equal(out, x)


def test_the_class_row_stays_first():
    x = jnp.asarray(table(prefix=1))
    out = resample_positions(x, (7, 9), convention="bicubic", prefix=1)
    assert out.shape == (1 + 63, 5)
    np.testing.assert_array_equal(out[0], x[0])
    without = resample_positions(x[1:], (7, 9), convention="bicubic")
    np.testing.assert_array_equal(out[1:], without)


def test_rows_and_columns_are_not_swapped():
    # A table that grows along the columns alone.
    ramp = np.tile(np.arange(14, dtype=np.float32), 14)[:, None]
    out = np.asarray(resample_positions(jnp.asarray(ramp), (5, 28), convention="bilinear"))
    out = out.reshape(5, 28)
    assert np.ptp(out, axis=0).max() < 1e-5
    assert (np.diff(out[0]) >= 0).all() and np.ptp(out[0]) > 12


def test_unknown_convention_is_named():
    with pytest.raises(UserError, match="did you mean 'bicubic'"):
        resample_positions(jnp.asarray(table()), (7, 7), convention="bicubik")

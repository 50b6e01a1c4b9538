"""The permutohedral lattice against an independent float64 one, and builder against builder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.ops import permutohedral as lattices
from tests.ops import lattice_oracle

SHAPES = [(1, 20, 2), (2, 60, 1), (3, 50, 4), (5, 80, 3)]


def points(d, n, channels, seed=0, spread=1.5):
    rng = np.random.default_rng(seed)
    features = (rng.normal(size=(n, d)) * spread).astype(np.float32)
    return features, rng.random((n, channels)).astype(np.float32)


def bounds_of(elevated):
    return tuple((int(np.floor(r.min())), int(np.ceil(r.max()))) for r in elevated[:-1])


def byte_points(d, n, seed=0):
    """Points whose features are byte / 9, with the tables that lift them."""
    axes = [np.arange(256, dtype=np.float32) / np.float32(9)] * d
    index = np.random.default_rng(seed).integers(0, 60, (d, n))
    tables = lattices.axis_tables(axes)
    lifted = 0
    for table, i in zip(reversed(tables), reversed(index), strict=True):
        lifted = lifted + table[i].T
    return (
        lifted,
        lattices.table_bounds(tables),
        np.stack(axes)[:, 0][:, None] + index / np.float32(9),
    )


@pytest.mark.parametrize(("d", "n", "channels"), SHAPES)
def test_filter_matches_oracle(d, n, channels):
    features, values = points(d, n, channels)
    want = lattice_oracle.lattice_filter(features, values)
    lattice = lattices.build(lattices.elevate(features.T))
    np.testing.assert_allclose(lattices.host_filter(lattice)(values), want, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(
        lattices.device_filter(lattice, jnp.asarray(values)), want, rtol=2e-5, atol=1e-5
    )


def test_blurs_in_another_order_are_another_filter():
    features, values = points(3, 50, 4, spread=3)
    want = lattice_oracle.lattice_filter(features, values)
    wrong = lattice_oracle.lattice_filter(features, values, axes=[3, 2, 1, 0])
    got = lattices.host_filter(lattices.build(lattices.elevate(features.T)))(values)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-5)
    assert np.abs(got - wrong).max() > 1e-3


@pytest.mark.parametrize(("d", "n"), [(2, 70), (5, 90)])
def test_builders_make_the_same_tables(d, n):
    lifted, bounds, _ = byte_points(d, n)
    host = lattices.build(lifted)
    device = jax.jit(lambda e: lattices.build_device(e, bounds))(lifted)
    m = int(host.count)
    assert int(device.count) == m == host.capacity
    assert device.capacity == n * (d + 1)
    np.testing.assert_array_equal(device.vertex, host.vertex)
    np.testing.assert_allclose(device.weight, host.weight, atol=1e-6)
    got = np.asarray(device.neighbours)
    np.testing.assert_array_equal(
        np.where(got == device.capacity, m, got)[..., :m], host.neighbours[..., :m]
    )
    assert (got[..., m:] == device.capacity).all()


def test_lifting_by_tables_is_bitwise_elevate():
    lifted, bounds, features = byte_points(5, 200)
    np.testing.assert_array_equal(lifted, lattices.elevate(features.astype(np.float32)))
    for row, (low, high) in zip(lifted[:-1], bounds, strict=True):
        assert low <= row.min() and row.max() <= high


def test_lifting_keeps_distances():
    features, _ = points(4, 30, 1)
    lifted = lattices.elevate(features.T)
    np.testing.assert_allclose(lifted.sum(axis=0), 0, atol=1e-4)
    ratio = np.linalg.norm(lifted, axis=0) / np.linalg.norm(features, axis=1)
    np.testing.assert_allclose(ratio, np.sqrt(2 / 3) * 5, rtol=1e-5)
    np.testing.assert_allclose(lattices.elevate(jnp.asarray(features.T), jnp), lifted, atol=1e-5)


def test_keys_of_many_words_equal_one_word():
    # Coordinates of 2^20 do not share an int32 word, so the device compares five words.
    lifted, _, _ = byte_points(5, 40)
    wide = tuple((-(2**20), 2**20) for _ in range(5))
    host = lattices.build(lifted)
    device = lattices.build_device(lifted, wide)
    np.testing.assert_array_equal(device.vertex, host.vertex)
    values = np.random.default_rng(1).random((40, 2)).astype(np.float32)
    np.testing.assert_allclose(
        lattices.device_filter(device, jnp.asarray(values)),
        lattices.host_filter(host)(values),
        rtol=1e-5,
    )


def test_device_under_vmap_equals_each_alone():
    sets = [byte_points(3, 30, seed)[0] for seed in (1, 2)]
    bounds = byte_points(3, 30)[1]
    values = np.random.default_rng(2).random((2, 30, 3)).astype(np.float32)

    def run(elevated, value):
        return lattices.device_filter(lattices.build_device(elevated, bounds), value)

    got = jax.jit(jax.vmap(run))(np.stack(sets), values)
    for one, value, lifted in zip(got, values, sets, strict=True):
        want = lattices.host_filter(lattices.build(lifted))(value)
        np.testing.assert_allclose(one, want, rtol=1e-5, atol=1e-6)


def test_invalid_points_are_as_good_as_absent():
    lifted, bounds, _ = byte_points(3, 60)
    values = np.random.default_rng(3).random((60, 2)).astype(np.float32)
    valid = np.random.default_rng(4).random(60) < 0.6
    want = lattices.host_filter(lattices.build(lifted[:, valid]))(values[valid])
    host = lattices.host_filter(lattices.build(lifted, valid=valid))(values)
    device = lattices.device_filter(lattices.build_device(lifted, bounds, valid=valid), values)
    for got in (host, np.asarray(device)):
        np.testing.assert_allclose(got[valid], want, rtol=1e-5, atol=1e-6)
        assert not got[~valid].any()
    everyone = lattices.host_filter(lattices.build(lifted))(values)
    assert np.abs(everyone[valid] - want).max() > 1e-3


def test_no_valid_point():
    lifted, bounds, _ = byte_points(2, 5)
    nobody, values = np.zeros(5, bool), np.ones((5, 1), np.float32)
    assert not lattices.host_filter(lattices.build(lifted, valid=nobody))(values).any()
    device = lattices.build_device(lifted, bounds, valid=nobody)
    assert int(device.count) == 0
    assert not np.asarray(lattices.device_filter(device, values)).any()


def test_one_point_keeps_its_value():
    lifted, bounds, _ = byte_points(5, 1)
    value = np.array([[2.0]], np.float32)
    host = lattices.host_filter(lattices.build(lifted))(value)
    device = lattices.device_filter(lattices.build_device(lifted, bounds), value)
    np.testing.assert_allclose(host, device, rtol=1e-6)
    assert 0 < host[0, 0] <= 2.0


def test_capacity_that_suffices_and_one_that_does_not():
    lifted, bounds, _ = byte_points(3, 60)
    values = np.random.default_rng(5).random((60, 2)).astype(np.float32)
    host = lattices.build(lifted)
    m = int(host.count)
    tight = lattices.build_device(lifted, bounds, capacity=m)
    assert int(tight.count) == tight.capacity == m
    np.testing.assert_allclose(
        lattices.device_filter(tight, values), lattices.host_filter(host)(values), rtol=1e-5
    )
    short = lattices.build_device(lifted, bounds, capacity=m - 5)
    assert int(short.count) == m > short.capacity
    assert np.isfinite(lattices.device_filter(short, values)).all()


def test_scale_filter_folds_both_factors():
    lifted, _, _ = byte_points(3, 40)
    rng = np.random.default_rng(6)
    before, after = rng.random((2, 40)).astype(np.float32)
    values = rng.random((40, 3)).astype(np.float32)
    plain = lattices.host_filter(lattices.build(lifted))
    folded = lattices.scale_filter(plain, before, after)
    want = after[:, None] * plain(before[:, None] * values)
    np.testing.assert_allclose(folded(values), want, rtol=1e-5)
    # The filter given must be left as it was: it may be cached.
    np.testing.assert_allclose(plain(values), lattices.host_filter(lattices.build(lifted))(values))
    with pytest.raises(UserError, match="host_filter"):
        lattices.scale_filter(lambda q: q, before, after)


def test_filter_is_close_to_the_gaussian_and_linear():
    y, x = np.indices((24, 24), dtype=np.float32)
    features = np.stack([x.ravel(), y.ravel()]) / np.float32(2.5)
    values = np.random.default_rng(7).random((576, 2)).astype(np.float32)
    run = lattices.host_filter(lattices.build(lattices.elevate(features)))
    distance = ((features[:, :, None] - features[:, None]) ** 2).sum(axis=0)
    kernel = np.exp(-distance / 2)
    want = kernel @ values / kernel.sum(axis=1, keepdims=True)
    got = run(values) / run(np.ones((576, 1), np.float32))
    assert np.abs(got - want).max() < 0.05
    np.testing.assert_allclose(run(3 * values), 3 * run(values), rtol=1e-5)


def test_features_too_wide_are_refused():
    features = np.array([[0, 1e9]] * 5, np.float32)
    with pytest.raises(UserError, match="standard deviations"):
        lattices.build(lattices.elevate(features))
    with pytest.raises(UserError, match="scale them down"):
        lattices.build_device(np.zeros((3, 4), np.float32), ((0, 2**31), (0, 1)))

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.ops.deformable import deformable_attention, query_centres

SIZES = ((2, 3), (4, 5))


def draw(seed: int = 0, batch: int = 2, queries: int = 5, heads: int = 3, points: int = 2):
    r = np.random.default_rng(seed)
    cells = sum(h * w for h, w in SIZES)
    value = r.normal(size=(batch, cells, heads, 4)).astype(np.float32)
    # Well beyond the maps too.
    locations = r.uniform(-0.6, 1.6, (batch, queries, heads, len(SIZES), points, 2))
    weights = r.normal(size=locations.shape[:-1])
    return value, locations.astype(np.float32), weights.astype(np.float32)


def oracle(value, locations, weights):
    """Samples point by point in float64, with zeros around each map."""
    batch, queries, heads, _, points, _ = locations.shape
    out = np.zeros((batch, queries, heads, value.shape[-1]))
    for b, n, a, p in np.ndindex(batch, queries, heads, points):
        start = 0
        for level, (h, w) in enumerate(SIZES):
            grid = value[b, start : start + h * w, a].reshape(h, w, -1).astype(np.float64)
            grid = np.pad(grid, ((2, 2), (2, 2), (0, 0)))
            start += h * w
            x, y = locations[b, n, a, level, p].astype(np.float64) * (w, h) + 1.5
            x, y = np.clip(x, 0, w + 2 - 1e-9), np.clip(y, 0, h + 2 - 1e-9)
            i, j, u, v = int(y), int(x), y % 1, x % 1
            sample = (1 - u) * ((1 - v) * grid[i, j] + v * grid[i, j + 1])
            sample = sample + u * ((1 - v) * grid[i + 1, j] + v * grid[i + 1, j + 1])
            out[b, n, a] += weights[b, n, a, level, p] * sample
    return out


def test_samples_are_bilinear_with_zeros_outside():
    args = draw()
    got = jax.jit(lambda *a: deformable_attention(a[0], SIZES, a[1], a[2]))(*args)
    np.testing.assert_allclose(got, oracle(*args), atol=2e-5)


def test_far_outside_is_zero_and_finite():
    value, locations, weights = draw()
    far = np.sign(locations) * 1e12
    assert not np.any(deformable_attention(value, SIZES, far, weights))


def test_half_precision_keeps_its_dtype():
    value, locations, weights = draw()
    got = deformable_attention(jnp.asarray(value, jnp.bfloat16), SIZES, locations, weights)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), oracle(value, locations, weights), atol=0.1)


def test_gradients_are_those_of_differences():
    value, locations, weights = draw(batch=1, queries=2, heads=1)

    @jax.jit
    def loss(value, locations, weights):
        return jnp.sum(jnp.sin(deformable_attention(value, SIZES, locations, weights)))

    grads = jax.grad(loss, argnums=(0, 1, 2))(value, locations, weights)
    r = np.random.default_rng(3)
    for k, (x, grad) in enumerate(zip((value, locations, weights), grads, strict=True)):
        step = r.normal(size=x.shape).astype(np.float32)
        args: list[np.ndarray] = [value, locations, weights]
        ends = []
        for sign in (1, -1):
            args[k] = x + np.float32(sign * 1e-3) * step
            ends.append(float(loss(*args)))
        slope = (ends[0] - ends[1]) / 2e-3
        assert abs(slope - float(jnp.vdot(grad, step))) < 0.02 * (1 + abs(slope))


def test_a_centre_gives_its_own_cell():
    value, _, _ = draw(heads=1)
    centres = query_centres(SIZES)
    locations = np.zeros((2, len(centres), 1, len(SIZES), 1, 2), np.float32)
    weights = np.zeros(locations.shape[:-1], np.float32)
    start = 0
    for level, (h, w) in enumerate(SIZES):
        rows = slice(start, start + h * w)
        locations[:, rows, 0, level, 0] = centres[rows]
        weights[:, rows, 0, level] = 1
        start += h * w
    got = deformable_attention(value, SIZES, locations, weights)
    np.testing.assert_allclose(got, value, atol=1e-5)


def test_sizes_that_do_not_fit_are_caught():
    value, locations, weights = draw()
    with pytest.raises(AssertionError, match="cells"):
        deformable_attention(value, ((2, 2), (4, 5)), locations, weights)

import jax
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.ops import relative_attention as module
from openseg_jax.ops.relative_attention import relative_attention

GRID = (2, 3)


def inputs(batch=2, heads=2, width=4):
    rng = np.random.default_rng(0)
    cells = GRID[0] * GRID[1]
    qkv = rng.normal(size=(3, batch, cells, heads, width))
    rows, columns = (rng.normal(size=(2 * n - 1, width)) for n in GRID)
    return [np.asarray(x, np.float32) for x in (*qkv, rows, columns)]


def by_pairs(q, k, v, rows, columns):
    """The formula, one pair of cells at a time in float64."""
    q, k, v, rows, columns = (x.astype(np.float64) for x in (q, k, v, rows, columns))
    h, w = GRID
    out = np.zeros_like(v)
    for b in range(q.shape[0]):
        for a in range(q.shape[2]):
            for i in range(h * w):
                logits = np.zeros(h * w)
                for j in range(h * w):
                    down, right = i // w - j // w, i % w - j % w
                    vector = k[b, j, a] / q.shape[-1] ** 0.5
                    vector = vector + rows[down + h - 1] + columns[right + w - 1]
                    logits[j] = q[b, i, a] @ vector
                weights = np.exp(logits - logits.max())
                out[b, i, a] = weights @ v[b, :, a] / weights.sum()
    return out


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_against_the_formula_pair_by_pair(platform, monkeypatch):
    monkeypatch.setattr(module, "target", lambda: platform)
    # Three of the four heads at once: the last group is smaller.
    monkeypatch.setattr(module, "_LOGITS", 3 * 36)
    arrays = inputs()
    got = jax.jit(relative_attention, static_argnums=5)(*arrays, GRID)
    np.testing.assert_allclose(got, by_pairs(*arrays), atol=3e-6)
    turned = by_pairs(*arrays[:3], arrays[3][::-1], arrays[4])
    assert np.abs(got - turned).max() > 0.1


def test_tables_of_another_size_are_refused():
    arrays = inputs()
    with pytest.raises(UserError, match="relative columns: expected 5 vectors for 3 cells, got 3"):
        relative_attention(*arrays[:4], arrays[3], GRID)

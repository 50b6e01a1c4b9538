"""The last block's variants, each against NumPy, and what they may be used for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.models.last_block import LAST_BLOCKS, LastBlock, neighbourhood
from openseg_jax.models.layers import Block, block_params
from openseg_jax.models.variants import VisionConfig
from openseg_jax.models.vit import VisionTransformer
from tests.segclip.models import quick_jit

CONFIG = VisionConfig(24, 8, 16, 3, 2, 32, "quick_gelu")
TOWER = VisionTransformer(CONFIG, 12)
# 3 × 3 is the native grid; 2 × 4 has other positions and is not square.
SIZES = [(24, 24), (16, 32)]
NAMES = sorted(LAST_BLOCKS)


@functools.cache
def case(size):
    params = TOWER.init(jax.random.key(0), jnp.zeros((1, 24, 24, 3)))["params"]
    rng = np.random.default_rng(1)
    draw = lambda x: rng.normal(0, 0.35, x.shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(draw, params)
    image = rng.normal(size=(2, *size, 3)).astype(np.float32)
    before = TOWER.apply({"params": params}, image, method=lambda m, x: m.run(m.embed(x), 0, -1))
    return params, image, np.asarray(before, np.float64)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + CONFIG.eps)
    return x * p["scale"] + p["bias"]


def linear(x, p):
    return x @ np.asarray(p["kernel"], np.float64) + p.get("bias", 0)


def gaussian(grid, std):
    """NACLIP's window, moved over the grid patch by patch, with nothing for the class token."""
    h, w = grid
    out = np.zeros((1 + h * w, 1 + h * w))
    for i in range(h * w):
        for j in range(h * w):
            far = (i // w - j // w) ** 2 + (i % w - j % w) ** 2
            out[1 + i, 1 + j] = np.exp(-far / (2 * std**2))
    return out


def numpy_variant(name, params, x, grid, std):
    """Written from the papers' formulas: nothing of the library's is used."""
    p = block_params(params["blocks"], -1)
    a = norm(x, p["ln_1"])
    heads = lambda t: t.reshape(*t.shape[:2], 2, 8).transpose(0, 2, 1, 3)  # noqa: E731
    q, k, v = (heads(linear(a, p["attn"][n])) for n in ("query", "key", "value"))
    scores = lambda s, t: s @ t.swapaxes(-1, -2) / np.sqrt(8)  # noqa: E731
    weights = {
        "plain": lambda: softmax(scores(q, k)),
        "maskclip": lambda: np.eye(x.shape[1]),
        "sclip": lambda: softmax(scores(q, q)) + softmax(scores(k, k)),
        "clearclip": lambda: softmax(scores(q, q)),
        "naclip": lambda: softmax(scores(k, k) + gaussian(grid, std)),
    }[name]()
    out = (weights @ v).transpose(0, 2, 1, 3).reshape(x.shape)
    y = linear(out, p["attn"]["out"])
    if name in ("plain", "maskclip", "sclip"):
        y = x + y
        hidden = linear(norm(y, p["ln_2"]), p["mlp"]["c_fc"])
        y = y + linear(hidden / (1 + np.exp(-1.702 * hidden)), p["mlp"]["c_proj"])
    return linear(norm(y[:, 1:], params["ln_post"]), params["proj"])


@functools.cache
def ours(name, size, std=1.3):
    params, image, _ = case(size)
    run = functools.partial(
        TOWER.apply, project=True, last=LAST_BLOCKS[name], std=std, method="tokens"
    )
    return np.asarray(quick_jit(run)({"params": params}, image))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_each_variant_is_its_formula(name, size):
    params, _, before = case(size)
    grid = (size[0] // 8, size[1] // 8)
    want = numpy_variant(name, params, before, grid, 1.3)
    # One block in float32: a few dozen roundings of 6e-8, on values of a few units.
    close = 2e-5 * np.abs(want).max()
    np.testing.assert_allclose(ours(name, size), want, atol=close)
    # No other variant passes for it.
    for other in NAMES:
        if other != name:
            wrong = numpy_variant(other, params, before, grid, 1.3)
            assert np.abs(ours(name, size) - wrong).max() > 100 * close


def test_switches_of_the_block_are_seen():
    params, _, before = case(SIZES[0])
    p = block_params(params["blocks"], -1)
    block = Block(16, 2, 32, "quick_gelu", CONFIG.eps)
    x = jnp.asarray(before, jnp.float32)
    run = lambda last: np.asarray(block.apply({"params": p}, x, last, method=Block.dense))  # noqa: E731
    np.testing.assert_allclose(run(LastBlock()), block.apply({"params": p}, x), atol=1e-5)
    every = [LastBlock((), r, f) for r in (True, False) for f in (True, False)]
    found = [run(last) for last in every]
    for i in range(4):
        for j in range(i):
            assert np.abs(found[i] - found[j]).max() > 1e-2


def test_neighbourhood_is_a_gaussian_of_distance():
    got = np.asarray(neighbourhood((3, 5), 2.0, 1))
    np.testing.assert_allclose(got, gaussian((3, 5), 2.0), atol=1e-6)
    assert got[0].max() == got[:, 0].max() == 0 and np.diag(got)[1:].min() == 1
    # Another std, and rows taken for columns, would be seen.
    assert np.abs(got - gaussian((3, 5), 1.5)).max() > 0.1
    assert np.abs(got - gaussian((5, 3), 2.0)).max() > 0.1

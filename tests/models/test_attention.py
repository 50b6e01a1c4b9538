"""ops.attention: every backend gives the same numbers and the same gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.ops.attention import attention, attention_weights, choose_backend

BACKENDS = ["xla", "map"]


def inputs(queries=7, keys=9, dtype=jnp.float32):
    draw = np.random.default_rng(0)
    shapes = [(2, queries, 3, 8), (2, keys, 3, 8), (2, keys, 3, 8)]
    return [jnp.asarray(draw.normal(size=s), dtype) for s in shapes]


def oracle(q, k, v, mask=None, bias=0.0):
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    logits = np.einsum("bnad,bsad->bans", q, k) / np.sqrt(q.shape[-1]) + bias
    if mask is not None:
        logits = np.where(mask, logits, -1e30)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bans,bsad->bnad", weights, v)


def some_mask():
    mask = np.random.default_rng(1).random((2, 3, 7, 9)) > 0.5
    mask[..., 0] = True
    return mask


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("masked", [False, True])
def test_backends_equal_float64(backend, masked):
    mask = some_mask() if masked else None
    got = attention(*inputs(), mask=mask, backend=backend)
    np.testing.assert_allclose(got, oracle(*inputs(), mask), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("masked", [False, True])
def test_bias_is_added_to_the_logits(backend, masked):
    mask = some_mask() if masked else None
    bias = np.random.default_rng(4).normal(size=(7, 9)).astype(np.float32)
    got = attention(*inputs(), mask=mask, bias=jnp.asarray(bias), backend=backend)
    np.testing.assert_allclose(got, oracle(*inputs(), mask, bias), rtol=1e-5, atol=2e-6)
    assert np.abs(got - oracle(*inputs(), mask)).max() > 1e-2


def test_gradients_of_the_bias_equal():
    bias = jnp.asarray(np.random.default_rng(4).normal(size=(7, 9)), jnp.float32)

    def grad(backend):
        def loss(bias):
            return jnp.square(attention(*inputs(), bias=bias, backend=backend)).sum()

        return jax.grad(loss)(bias)

    one, other = grad("xla"), grad("map")
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)
    assert np.abs(one).max() > 1e-2


@pytest.mark.parametrize("shape", [(1, 1, 7, 9), (2, 1, 1, 9), (1, 3, 7, 9)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_masks_broadcast(backend, shape):
    mask = np.random.default_rng(2).random(shape) > 0.4
    mask[..., 0] = True
    got = attention(*inputs(), mask=jnp.asarray(mask), backend=backend)
    np.testing.assert_allclose(got, oracle(*inputs(), mask), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_that_admits_nothing_is_the_mean(backend):
    q, k, v = inputs()
    mask = jnp.zeros((1, 1, 7, 9), bool).at[:, :, 1:].set(True)
    got = attention(q, k, v, mask=mask, backend=backend)
    np.testing.assert_allclose(got[:, 0], np.asarray(v).mean(axis=1), rtol=1e-5, atol=1e-6)
    assert np.isfinite(np.asarray(got)).all()


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_equal(masked):
    mask = jnp.asarray(some_mask()) if masked else None
    target = jnp.asarray(np.random.default_rng(3).normal(size=(2, 7, 3, 8)), jnp.float32)

    def loss(backend):
        return lambda q, k, v: (attention(q, k, v, mask=mask, backend=backend) * target).sum()

    grads = [jax.grad(loss(b), argnums=(0, 1, 2))(*inputs()) for b in BACKENDS]
    for one, other in zip(*grads, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)
        assert np.abs(one).max() > 1e-2


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_logits_do_not_overflow(backend):
    q, k, v = inputs()
    got = attention(q * 1e3, k * 1e3, v, backend=backend)
    np.testing.assert_allclose(got, oracle(q * 1e3, k * 1e3, v), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_is_close_and_keeps_its_dtype(backend):
    got = attention(*inputs(dtype=jnp.bfloat16), backend=backend)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), oracle(*inputs()), atol=2e-2)


def test_without_the_scale_it_is_another_function():
    q, k, v = inputs()
    wrong = oracle(np.asarray(q) * np.sqrt(8), k, v)
    assert np.abs(np.asarray(attention(q, k, v)) - wrong).max() > 0.1


def test_under_jit_and_vmap():
    q, k, v = inputs()
    want = attention(q, k, v, backend="map")
    mapped = jax.jit(jax.vmap(lambda *x: attention(*(y[None] for y in x), backend="map")[0]))
    np.testing.assert_allclose(mapped(q, k, v), want, rtol=1e-6, atol=1e-6)


def test_weights_sum_to_one_and_give_the_same_output():
    q, k, v = inputs()
    weights = attention_weights(q, k)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    out = jnp.einsum("bans,bsad->bnad", weights, v)
    np.testing.assert_allclose(out, attention(q, k, v), rtol=1e-5, atol=1e-6)


def test_choice_of_backend(monkeypatch):
    for platform, dtype, width, want in [
        ("cpu", jnp.float32, 64, "map"),
        ("gpu", jnp.float32, 64, "xla"),
        ("gpu", jnp.bfloat16, 64, "cudnn"),
        ("gpu", jnp.bfloat16, 63, "xla"),
        ("tpu", jnp.bfloat16, 64, "xla"),
    ]:
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        assert choose_backend("auto", jnp.dtype(dtype), width) == want
    assert choose_backend("xla", jnp.dtype(jnp.float32), 64) == "xla"
    with pytest.raises(UserError, match="did you mean 'cudnn'"):
        choose_backend("cudn", jnp.dtype(jnp.float32), 64)


@pytest.mark.gpu
@pytest.mark.parametrize("masked", [False, True])
def test_cudnn_equals_xla_on_a_gpu(masked):
    draw = np.random.default_rng(0)
    q, k, v = (jnp.asarray(draw.normal(size=(2, 64, 4, 64)), jnp.bfloat16) for _ in range(3))
    mask = jnp.tril(jnp.ones((1, 1, 64, 64), bool)) if masked else None
    want = attention(q, k, v, mask=mask, backend="xla")
    got = attention(q, k, v, mask=mask, backend="cudnn")
    np.testing.assert_allclose(
        got.astype(jnp.float32), want.astype(jnp.float32), atol=2e-2, rtol=2e-2
    )

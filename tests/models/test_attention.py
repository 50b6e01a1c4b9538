"""ops.attention: every backend gives the same numbers and the same gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.ops.attention import (
    attention,
    attention_weights,
    choose_backend,
    explain_backend,
)
from openseg_jax.ops.attention_kernels import cudnn_attention, cudnn_operands, splash_attention

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


BF16, FP16, FP32 = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16), jnp.dtype(jnp.float32)


@pytest.mark.parametrize(
    ("platform", "dtype", "width", "call", "want", "why"),
    [
        ("cpu", FP32, 64, {}, "map", "CPUs"),
        ("gpu", FP32, 64, {}, "xla", "not float32"),
        ("gpu", BF16, 64, {}, "cudnn", "fused"),
        ("gpu", FP16, 64, {}, "cudnn", "fused"),
        ("gpu", BF16, 64, {"mask": (1, 1, 77, 77)}, "cudnn", "fused"),
        ("gpu", FP16, 64, {"mask": (1, 1, 77, 77)}, "xla", "low enough"),
        ("gpu", BF16, 64, {"biased": True}, "cudnn", "fused"),
        ("gpu", BF16, 64, {"biased": True, "mask": (1, 1, 7, 7)}, "cudnn", "fused"),
        ("gpu", BF16, 64, {"biased": True, "mask": (2, 1, 7, 7)}, "xla", "of each image"),
        ("gpu", BF16, 63, {}, "xla", "multiple of 8 and at most 128"),
        ("gpu", BF16, 160, {}, "xla", "at most 128"),
        ("gpu", BF16, 160, {"capability": (9, 0)}, "cudnn", "fused"),
        ("gpu", BF16, 64, {"capability": (7, 5)}, "xla", "Ampere"),
        ("tpu", BF16, 64, {"devices": 1}, "xla", "up to 1024 tokens"),
        ("tpu", BF16, 64, {"devices": 1, "keys": 1024}, "xla", "up to 1024 tokens"),
        ("tpu", BF16, 64, {"devices": 1, "keys": 4097}, "splash", "on one TPU"),
        ("tpu", FP32, 64, {"devices": 1, "keys": 4097}, "splash", "on one TPU"),
        ("tpu", BF16, 64, {"devices": 8, "keys": 4097}, "xla", "split"),
        ("tpu", BF16, 64, {"devices": 1, "keys": 4097, "biased": True}, "xla", "neither"),
        ("METAL", BF16, 64, {}, "xla", "no fused kernel for METAL"),
    ],
)  # fmt: skip
def test_choice_of_backend(platform, dtype, width, call, want, why):
    chosen, reason = explain_backend("auto", dtype, width, platform=platform, **call)
    assert chosen == want and why in reason
    assert choose_backend("auto", dtype, width, platform=platform, **call) == want


def test_named_backends():
    assert choose_backend("xla", FP32, 64) == "xla"
    if jax.default_backend() == "cpu":
        assert choose_backend("auto", FP32, 64) == "map"
    with pytest.raises(UserError, match="did you mean 'cudnn'"):
        choose_backend("cudn", FP32, 64)
    with pytest.raises(UserError, match=r"not float32; use \"auto\""):
        choose_backend("cudnn", FP32, 64, platform="gpu")
    with pytest.raises(UserError, match="this is a cpu"):
        choose_backend("splash", BF16, 64, platform="cpu")
    # A text tower beside an image tower: what one call cannot have is no mistake of the setting.
    masked = {"keys": 2000, "mask": (1, 1, 77, 77)}
    assert choose_backend("splash", BF16, 64, platform="tpu", devices=1, **masked) == "xla"


def test_the_choice_is_said_once(caplog):
    caplog.set_level("INFO", logger="absl")
    rare = inputs(queries=3, keys=11)
    for _ in range(2):
        attention(*rare)
    said = [r.getMessage() for r in caplog.records if "11 tokens" in r.getMessage()]
    assert len(said) == 1 and "heads of 8, float32: map (a loop over heads" in said[0]


@pytest.mark.parametrize(("queries", "keys"), [(6, 8), (7, 9)])
@pytest.mark.parametrize("kind", ["mask", "bias", "both"])
def test_what_cudnn_is_given_computes_the_same(queries, keys, kind):
    """The kernel needs a card; its operands, padded to even lengths, are those of any backend."""
    draw = np.random.default_rng(5)
    mask, bias = None, None
    if kind != "bias":
        mask = draw.random((1 if kind == "both" else 2, 1, queries, keys)) > 0.5
        mask[..., 0] = True
        mask = jnp.asarray(mask)
    if kind != "mask":
        bias = jnp.asarray(draw.normal(size=(queries, keys)), jnp.float32)
    args = inputs(queries, keys)
    *padded, added = cudnn_operands(*args, mask, bias)
    assert all(x.shape[1] % 2 == 0 for x in padded) and added.shape[2] % 2 == 0
    if kind == "bias":
        assert added.shape[:2] == (1, 3)  # spread over heads: only then there is a gradient

    def run(f):
        def loss(q, k, v, bias):
            out = f(q, k, v, bias)
            return jnp.square(out).sum(), out

        wanted = (0, 1, 2) if bias is None else (0, 1, 2, 3)
        return jax.jit(jax.grad(loss, wanted, has_aux=True))(*args, bias)

    want = run(lambda q, k, v, bias: attention(q, k, v, mask=mask, bias=bias, backend="xla"))
    got = run(lambda q, k, v, bias: cudnn_attention(q, k, v, mask, bias, implementation="xla"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=3e-6), got, want)


def test_a_row_that_admits_nothing_is_the_mean_for_cudnn_too():
    q, k, v = inputs()  # nine keys: a tenth is added, and is not in the mean
    mask = jnp.ones((1, 1, 7, 9), bool).at[:, :, 0].set(False)
    got = cudnn_attention(q, k, v, mask, None, implementation="xla")
    np.testing.assert_allclose(got[:, 0], np.asarray(v).mean(axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("queries", "keys"), [(130, 200)])
def test_splash_equals_the_others(queries, keys):
    """The TPU kernel's own program, interpreted."""
    args = inputs(queries, keys)
    got = jax.jit(functools.partial(splash_attention, interpret=True))(*args)
    np.testing.assert_allclose(got, oracle(*args), rtol=1e-5, atol=2e-6)


@pytest.mark.slow
def test_gradients_of_splash_equal():
    args = inputs(130, 130)

    def grads(f):
        return jax.jit(jax.grad(lambda q, k, v: jnp.square(f(q, k, v)).sum(), (0, 1, 2)))(*args)

    got = grads(lambda *x: splash_attention(*x, interpret=True))
    want = grads(lambda *x: attention(*x, backend="xla"))
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("tokens", [64, 77])
def test_cudnn_equals_xla_on_a_gpu(masked, tokens):
    draw = np.random.default_rng(0)
    args = [jnp.asarray(draw.normal(size=(2, tokens, 4, 64)), jnp.bfloat16) for _ in range(3)]
    mask = jnp.tril(jnp.ones((1, 1, tokens, tokens), bool)) if masked else None

    def run(backend):
        def loss(q, k, v):
            out = attention(q, k, v, mask=mask, backend=backend).astype(jnp.float32)
            return jnp.square(out).sum(), out

        return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*args)

    for got, want in zip(jax.tree.leaves(run("cudnn")), jax.tree.leaves(run("xla")), strict=True):
        got, want = (np.asarray(x, np.float32) for x in (got, want))
        np.testing.assert_allclose(got, want, atol=2e-2 * want.std(), rtol=2e-2)


@pytest.mark.tpu_backend
def test_splash_compiles_for_a_tpu(monkeypatch):
    """By the TPU's own compiler: lengths of CLIP's towers at 1024 pixels, forward and backward."""
    pytest.importorskip("libtpu", reason="needs libtpu of JAX's own version: openseg_jax[tpu]")
    from jax.experimental import topologies

    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }.items():
        monkeypatch.setenv(name, value)
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])
    for width in (64, 72):
        shape = jax.ShapeDtypeStruct((2, 4097, 4, width), jnp.bfloat16, sharding=sharding)

        def loss(q, k, v):
            return jnp.square(splash_attention(q, k, v).astype(jnp.float32)).sum()

        program = jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(shape, shape, shape).compile()
        stats = program.memory_analysis()
        # The logits alone would be 2·4·4097² numbers.
        assert stats.temp_size_in_bytes < 2 * 4 * 4097**2

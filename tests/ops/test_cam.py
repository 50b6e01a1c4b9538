import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.ops import cam

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def test_min_max_of_constant_rows_is_zero_and_padding_does_not_count():
    x = np.array([[2, 2, 2, 9], [1, 3, 2, -7]], np.float32)
    valid = np.array([True, True, True, False])
    got = np.asarray(cam.min_max(x, valid))
    np.testing.assert_allclose(got, [[0, 0, 0, 0], [0, 1, 0.5, 0]])
    np.testing.assert_allclose(np.asarray(cam.min_max(x[:, :3])), got[:, :3])


def test_rival_cotangents_give_the_gradient_of_the_probability():
    texts, feature, scale = normal(7, 5), normal(5), 3.0
    admitted = np.ones((4, 7), bool)
    admitted[1, 3] = False

    def probability(f, k):
        logits = jnp.where(admitted[k], scale * texts @ f, -jnp.inf)
        return jax.nn.softmax(logits)[k]

    c, p = cam.rival_cotangents(jnp.asarray(scale * texts @ feature), texts, admitted)
    for k in range(4):
        want = jax.grad(probability)(jnp.asarray(feature), k)
        np.testing.assert_allclose(scale * p[k, k] * c[k], want, atol=1e-6, rtol=1e-4)


def test_rival_cotangents_do_not_cancel_when_a_text_is_certain():
    texts = normal(3, 8).astype(np.float64)
    logits = np.array([30.0, 8.0, 7.0])
    c, _ = cam.rival_cotangents(
        jnp.asarray(logits, jnp.float32), texts.astype(np.float32), np.ones((1, 3), bool)
    )
    p = np.exp(logits - 30) / np.exp(logits - 30).sum()
    want = sum(p[j] * (texts[0] - texts[j]) for j in (1, 2))
    np.testing.assert_allclose(np.asarray(c[0]), want, rtol=1e-4)
    p32 = p.astype(np.float32)
    naive = texts[0].astype(np.float32) - p32 @ texts.astype(np.float32)
    assert np.abs(naive / want - 1).max() > 1e-2


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("by_head", [False, True])
def test_patch_means_equal_a_full_pullback(prefix, by_head):
    n, heads, width, texts = 9, 2, 4, 3
    q, k, v = normal(n, heads, width), normal(n, heads, width), normal(n, heads, width)
    patches = np.arange(n) >= prefix
    patches[-2:] = False  # padding
    keys = patches | (np.arange(n) < prefix)
    g = normal(texts, n, heads, width) * keys[:, None, None]

    def attend(q, k, v):
        return cam.attend_with_mean_map(q, k, v, jnp.asarray(keys), by_head=False)[0]

    _, pull = jax.vjp(attend, q, k, v)
    got = cam.patch_mean_gradients(
        q, k, v, g, prefix=prefix, patches=jnp.asarray(patches), by_head=by_head
    )
    for t in range(texts):
        for ours, full in zip(got, pull(g[t]), strict=True):
            want = np.asarray(full)[patches].mean(axis=0)
            np.testing.assert_allclose(ours[t], want, atol=1e-5)
            if prefix:
                assert np.abs(np.asarray(full).mean(axis=0) - ours[t]).max() > 1e-4


@pytest.mark.parametrize("by_head", [False, True])
def test_attention_with_mean_map_equals_the_plain_one(by_head):
    q, k, v = normal(6, 2, 4), normal(6, 2, 4), normal(6, 2, 4)
    out, mean = cam.attend_with_mean_map(q, k, v, by_head=by_head)
    weights = jax.nn.softmax(np.einsum("nad,mad->anm", q, k) / 2, axis=-1)
    np.testing.assert_allclose(mean, weights.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(out, np.einsum("anm,mad->nad", weights, v), atol=1e-5)


def test_transition_and_refinement_equal_the_reference_formulas_in_float64():
    affinity = np.exp(normal(8, 8)).astype(np.float64)
    want = affinity.copy()
    for _ in range(3):
        want = want / want.sum(axis=0, keepdims=True)
        want = want / want.sum(axis=1, keepdims=True)
    want = (want + want.T) / 2
    got = cam.transition(jnp.asarray(affinity, jnp.float32))
    np.testing.assert_allclose(got, want, atol=1e-6)
    maps, inside = np.abs(normal(3, 8)), RNG.random((3, 8)) > 0.3
    squared = (want @ want @ (inside * maps).T).T
    np.testing.assert_allclose(cam.refine(got, maps, inside), squared, atol=1e-5)
    # Padding adds rows and columns of zeros and changes nothing.
    padded = np.pad(affinity, (0, 3), constant_values=7.0).astype(np.float32)
    valid = np.arange(11) < 8
    bigger = np.asarray(cam.transition(padded, valid))
    np.testing.assert_allclose(bigger[:8, :8], got, atol=1e-7)
    assert not bigger[8:].any() and not bigger[:, 8:].any()


def test_the_greatest_value_of_a_map_is_one_in_every_program():
    rows = np.random.default_rng(0).uniform(0, 1e-3, (64, 49)).astype(np.float32)
    for run in (cam.min_max, jax.jit(cam.min_max), jax.jit(lambda x: cam.min_max(x * 3))):
        np.testing.assert_array_equal(np.asarray(run(rows)).max(axis=1), 1)

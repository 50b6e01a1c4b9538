"""IP-CLIP: the decoupled encoder against the dense block mask, and what masks may look like."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.models import ip_clip
from openseg_jax.models.clip import CLIP
from openseg_jax.models.layers import run_stack
from openseg_jax.ops.ip_attention import ip_attention
from tests.weights.tiny import CLIP_MU, SIGLIP_MU, random_params


def dense(visual, image, masks, *, start):
    """The published form: one attention over N + L tokens with an explicit mask."""
    tokens = ip_clip.split_trunk(visual, image, start=start)
    n, patches = masks.shape[1], tokens.shape[1] - 1
    x = jnp.concatenate([jnp.repeat(tokens[:, :1], n, axis=1), tokens[:, 1:]], axis=1)
    among = jnp.broadcast_to(jnp.eye(n, dtype=bool), (len(x), n, n))
    classes = jnp.concatenate([among, masks], axis=2)
    rest = jnp.concatenate([jnp.zeros((patches, n), bool), jnp.ones((patches, patches), bool)], 1)
    rest = jnp.broadcast_to(rest, (len(x), *rest.shape))
    mask = jnp.concatenate([classes, rest], axis=1)[:, None]
    x = run_stack(visual.block(), visual.blocks, x, start=start, mask=mask)
    return visual.project(visual.post(x[:, :n]))


@functools.cache
def encoder(kind="decoupled", start=1, **switches):
    clip = CLIP(CLIP_MU, **switches)
    encode = {"decoupled": ip_clip.ip_encode, "dense": dense}[kind]

    def method(module, image, masks):
        return encode(module.visual, image, masks, start=start)

    return jax.jit(lambda p, image, masks: clip.apply({"params": p}, image, masks, method=method))


@functools.cache
def params():
    return jax.tree.map(jnp.asarray, random_params(CLIP_MU))


def inputs(grid, count, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    patch = CLIP_MU.vision.patch_size
    image = rng.normal(size=(batch, grid[0] * patch, grid[1] * patch, 3)).astype(np.float32)
    masks = rng.random((batch, count, grid[0] * grid[1])) < rng.random((batch, count, 1))
    masks[0, 0] = False
    masks[-1, -1] = True
    return jnp.asarray(image), jnp.asarray(masks)


@pytest.mark.parametrize(
    ("grid", "count", "start", "backend"),
    [((3, 5), 1, 0, "map"), ((3, 5), 300, 0, "xla"), ((4, 4), 300, 1, "map")],
)
def test_decoupled_equals_dense(grid, count, start, backend):
    image, masks = inputs(grid, count)
    want = encoder("dense", start, backend="xla")(params(), image, masks)
    got = encoder("decoupled", start, backend=backend)(params(), image, masks)
    assert got.shape == (2, count, CLIP_MU.embed_dim)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_switches_and_bfloat16():
    image, masks = inputs((3, 4), 7)
    want = np.asarray(encoder("decoupled", 0)(params(), image, masks))
    for scan in (False, "index"):
        got = encoder("decoupled", 0, scan=scan, remat=True)(params(), image, masks)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    half = encoder("decoupled", 0, dtype=jnp.bfloat16)(params(), image, masks)
    assert half.dtype == jnp.bfloat16
    assert np.abs(np.asarray(half, np.float32) - want).max() < 0.06 * np.abs(want).max()


@pytest.mark.slow
def test_gradients_equal_the_dense_form():
    image, masks = inputs((3, 3), 4)

    def gradient(kind, **switches):
        encode = encoder(kind, 0, **switches)
        return jax.grad(lambda p: jnp.square(encode(p, image, masks)).mean())(params())["visual"]

    want = gradient("dense", backend="xla")
    got = gradient("decoupled", backend="map", remat=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, want)


def test_masks_do_not_see_each_other_and_padding_changes_nothing():
    image, masks = inputs((4, 4), 5)
    whole = encoder()(params(), image, masks)
    padded = jnp.concatenate([masks[:, 2:4], jnp.zeros((2, 3, 16), bool)], axis=1)
    got = encoder()(params(), image, padded)[:, :2]
    np.testing.assert_allclose(got, whole[:, 2:4], rtol=1e-5, atol=1e-5)
    assert np.isfinite(np.asarray(whole)).all()
    # Wrong on purpose: a mask that holds one other patch is another embedding.
    other = masks.at[:, 2, 3].set(~masks[:, 2, 3])
    assert np.abs(encoder()(params(), image, other) - whole)[:, 2].max() > 1e-3


def test_plain_tail_is_the_tower():
    image, _ = inputs((4, 4), 1)
    clip = CLIP(CLIP_MU)

    def method(module, image):
        tokens = ip_clip.split_trunk(module.visual, image, start=1)
        return ip_clip.plain_tail(module.visual, tokens, start=1), module.visual(image)

    got, want = jax.jit(lambda p: clip.apply({"params": p}, image, method=method))(params())
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_no_tensor_holds_every_pair_of_tokens_for_every_head():
    grid, count = (4, 4), 40
    image, masks = inputs(grid, count)
    for backend in ("map", "xla"):
        text = encoder("decoupled", 1, backend=backend).lower(params(), image, masks).as_text()
        assert f"{count + 16}x{count + 16}x" not in text
    dense_text = encoder("dense", 1, backend="xla").lower(params(), image, masks).as_text()
    assert f"{count + 16}x{count + 16}xf32" in dense_text


def test_errors_name_the_block_and_the_tower():
    image, masks = inputs((4, 4), 2)
    with pytest.raises(UserError, match="start: expected a block from 0 to"):
        encoder("decoupled", 9)(params(), image, masks)
    siglip = CLIP(SIGLIP_MU)
    with pytest.raises(UserError, match="expected an image tower with a class token"):
        siglip.apply(
            {"params": random_params(SIGLIP_MU)}, image, masks,
            method=lambda m, i, t: ip_clip.ip_encode(m.visual, i, t, start=0),
        )  # fmt: skip


def test_default_start_is_the_published_block_or_two_thirds():
    assert [ip_clip.default_start(depth) for depth in (12, 24, 8, 6, 3, 1)] == [8, 8, 5, 4, 2, 0]


def test_attention_to_masks_is_what_the_masked_attention_gives_them():
    image, masks = inputs((3, 4), 5)
    masks = masks.at[:, 0].set(False).at[:, 1].set(True)

    def method(module, image, masks):
        visual = module.visual
        tokens = ip_clip.split_trunk(visual, image, start=1)
        got = ip_clip.attention_to_masks(visual, tokens, masks, start=1)
        q, k, _ = ip_clip._project(visual.block(), visual.block_params(1), tokens)
        q, own = (jnp.broadcast_to(x[:, :1], (2, 5, *x.shape[2:])) for x in (q, k))
        # Patches are worth 1 and the class token nothing, so what comes out is their share.
        nothing, one = jnp.zeros_like(own), jnp.ones_like(k[:, 1:])
        share = ip_attention(q, own, nothing, k[:, 1:], one, masks, backend="xla")
        return got, share.mean(axis=-1)

    clip = CLIP(CLIP_MU)
    run = jax.jit(lambda p, *x: clip.apply({"params": p}, *x, method=method))
    got, want = run(params(), image, masks)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert (got[:, 0] == 0).all() and (got[:, 1:] > 0).all() and (got < 1).all()

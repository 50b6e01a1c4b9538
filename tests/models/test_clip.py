"""The CLIP towers: switches that must change nothing, and shapes that must hold."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.models import layers
from openseg_jax.models.clip import CLIP, init_params, normalize
from openseg_jax.models.variants import VARIANTS, CLIPConfig, Preprocess, variant
from tests.weights.tiny import CLIP_MU, SIGLIP_MU, random_params, with_act

BOTH = [CLIP_MU, SIGLIP_MU]
# Tests that compile much ask the second one among the slow tests only.
FIRST = [BOTH[0], *(pytest.param(c, marks=pytest.mark.slow) for c in BOTH[1:])]


def image(height=32, width=32, batch=2):
    draw = np.random.default_rng(0)
    return jnp.asarray(draw.normal(size=(batch, height, width, 3)), jnp.float32)


def ids(rows=3, length=16):
    out = np.random.default_rng(1).integers(1, 8, (rows, length)).astype(np.int32)
    out[:, 9] = 9
    out[:, 10:] = 0
    return jnp.asarray(out)


def run(config, params=None, size=(32, 32), **switches):
    params = random_params(config) if params is None else params
    clip = CLIP(config, **switches)
    step = jax.jit(lambda p: clip.apply({"params": p}, image(*size), ids()))
    zi, zt, scale, bias = step(params)
    return zi @ zt.T * scale + bias, zi, zt


@pytest.mark.parametrize("config", FIRST)
def test_switches_change_nothing(config):
    params = random_params(config)
    plain = run(config, params)
    for switches in ({"scan": False}, {"backend": "xla"}):
        for want, got in zip(plain, run(config, params, **switches), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("tower", "config"), [("visual", SIGLIP_MU), ("text", CLIP_MU)])
def test_gradients_are_equal_under_scan_and_remat(tower, config):
    params = jax.tree.map(jnp.asarray, random_params(config))

    def gradients(**switches):
        clip = CLIP(config, **switches)
        method = CLIP.encode_image if tower == "visual" else CLIP.encode_text
        inputs = image() if tower == "visual" else ids()

        def value(part):
            out = clip.apply({"params": {**params, tower: part}}, inputs, method=method)
            return normalize(out)[0].sum()

        return jax.jit(jax.grad(value))(params[tower])

    want = gradients()
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want))
    for switches in ({"remat": True}, {"scan": False, "backend": "xla"}):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * largest),
            gradients(**switches),
            want,
        )


@pytest.mark.parametrize("config", FIRST)
def test_every_parameter_matters(config):
    params = jax.tree.map(jnp.asarray, random_params(config))
    clip, target = CLIP(config), jnp.asarray(np.random.default_rng(5).normal(size=(2, 3)))

    def value(p):
        zi, zt, scale, bias = clip.apply({"params": p}, image(), ids())
        return ((zi @ zt.T * scale + bias) * target).sum()

    grads = jax.jit(jax.grad(value))(params)
    for path, g in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        # Softmax does not see what is added to all logits of a row: a key's bias.
        assert "'key']['bias" in name or float(jnp.abs(g).max()) > 1e-7, name


@pytest.mark.parametrize("config", FIRST)
def test_bfloat16_is_close_and_parameters_stay_float32(config):
    _, zi, zt = run(config)
    _, hi, ht = run(config, dtype=jnp.bfloat16)
    assert hi.dtype == ht.dtype == jnp.float32
    for want, got in ((zi, hi), (zt, ht)):
        assert 0 < np.abs(np.asarray(want - got)).max() < 5e-2
    params = jax.eval_shape(
        lambda: init_params(CLIP(config, dtype=jnp.bfloat16), jax.random.key(0))
    )
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("config", BOTH)
@pytest.mark.parametrize("size", [(32, 32), (40, 24), (9, 8), (63, 70)])
def test_any_size_of_at_least_a_patch(config, size):
    _, zi, _ = run(config, size=size)
    assert zi.shape == (2, config.embed_dim) and np.isfinite(np.asarray(zi)).all()


def test_pixels_beyond_the_last_patch_do_not_matter():
    clip, variables = CLIP(CLIP_MU), {"params": random_params(CLIP_MU)}
    whole = image(39, 32)
    tokens = [
        clip.apply(variables, x, method=lambda m, x: m.visual.embed(x))
        for x in (whole, whole[:, :32])
    ]
    np.testing.assert_array_equal(*tokens)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (jnp.zeros((32, 32, 3)), r"image: expected array\[B H W 3\], got float32\[32 32 3\]"),
        (jnp.zeros((1, 3, 32, 32)), "channels last"),
        (jnp.zeros((1, 7, 32, 3)), "at least 8 pixels a side, got 7×32"),
    ],
)
def test_bad_images_are_named(bad, match):
    with pytest.raises(UserError, match=match):
        CLIP(CLIP_MU).apply({"params": random_params(CLIP_MU)}, bad, method=CLIP.encode_image)


def encode_text(config, rows):
    return CLIP(config).apply(
        {"params": random_params(config)}, jnp.asarray(rows), method=CLIP.encode_text
    )


def test_bad_texts_are_named():
    with pytest.raises(UserError, match="expected 16 tokens a row, got 17"):
        encode_text(CLIP_MU, np.zeros((1, 17), np.int32))
    with pytest.raises(UserError, match="expected 16 tokens a row, got 8"):
        encode_text(SIGLIP_MU, np.zeros((1, 8), np.int32))


def test_what_follows_the_end_of_text_never_matters_to_clip():
    rows = np.asarray(ids())
    other = rows.copy()
    other[:, 10:] = 5
    want = encode_text(CLIP_MU, rows)
    np.testing.assert_allclose(encode_text(CLIP_MU, other), want, atol=1e-6)
    np.testing.assert_allclose(encode_text(CLIP_MU, rows[:, :10]), want, atol=2e-6)
    # SigLIP sees its padding, on purpose.
    changed = encode_text(SIGLIP_MU, other) - encode_text(SIGLIP_MU, rows)
    assert np.abs(np.asarray(changed)).max() > 1e-2


@pytest.mark.parametrize("act", ["gelu", "gelu_tanh", "quick_gelu"])
def test_activations(act):
    x = np.linspace(-5, 5, 101)
    from scipy.special import erf, expit

    want = {
        "gelu": x * 0.5 * (1 + erf(x / np.sqrt(2))),
        "gelu_tanh": x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        "quick_gelu": x * expit(1.702 * x),
    }[act]
    np.testing.assert_allclose(layers.ACTIVATION[act](jnp.asarray(x)), want, atol=2e-6)


def test_activations_are_three_different_functions():
    outs = [run(with_act(CLIP_MU, act))[1] for act in layers.ACTIVATION]
    for i, one in enumerate(outs):
        for other in outs[:i]:
            assert np.abs(np.asarray(one - other)).max() > 1e-5


def test_layer_norm_against_float64():
    x = np.random.default_rng(0).normal(size=(3, 64)) * 1e-2 + 100
    norm = layers.LayerNorm(1e-5)
    variables = norm.init(jax.random.key(0), jnp.zeros((1, 64)))
    x = x.astype(np.float32).astype(np.float64)
    want = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    # float32 keeps numbers about 100 to 8e-6, of a spread of 1e-2.
    np.testing.assert_allclose(norm.apply(variables, jnp.asarray(x)), want, atol=2e-3)


def test_parts_of_a_stack_join_up():
    clip, variables = CLIP(CLIP_MU), {"params": random_params(CLIP_MU)}

    def apply(method, *args):
        return clip.apply(variables, *args, method=method)

    x = apply(lambda m, i: m.visual.embed(i), image())
    whole = apply(lambda m, t: m.visual.run(t), x)
    first = apply(lambda m, t: m.visual.run(t, 0, 1), x)
    np.testing.assert_allclose(
        apply(lambda m, t: m.visual.run(t, 1), first), whole, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(apply(lambda m, t: m.visual.run(t, 0, -1), x), first)


def test_the_block_in_pieces_is_the_block():
    from openseg_jax.ops.attention import attention

    block = layers.Block(32, 2, 64, "quick_gelu", 1e-5)
    params = layers.block_params(random_params(CLIP_MU)["visual"]["blocks"], -1)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 32)), jnp.float32)

    def apply(*args, method=None):
        return block.apply({"params": params}, *args, method=method)

    a = apply(x, method=layers.Block.normed)
    q, k, v = apply(a, method=layers.Block.project_in)
    pieces = apply(x, attention(q, k, v), method=layers.Block.finish)
    np.testing.assert_allclose(pieces, apply(x), rtol=1e-5, atol=1e-5)


def test_dense_tokens():
    clip, variables = CLIP(CLIP_MU), {"params": random_params(CLIP_MU)}
    dense = clip.apply(variables, image(40, 24), method=CLIP.encode_patches)
    assert dense.shape == (2, 5 * 3, 16)
    early = clip.apply(
        variables, image(40, 24), blocks=-1, project=False, method=CLIP.encode_patches
    )
    assert early.shape == (2, 15, 32)


def test_normalize_keeps_zero():
    x = jnp.asarray([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(normalize(x), [[0.6, 0.8], [0, 0]], atol=1e-7)


def test_configs_survive_json():
    for config in VARIANTS.values():
        assert CLIPConfig.from_dict(config.to_dict()) == config
    p = Preprocess(224)
    assert Preprocess.from_dict({**p.to_dict(), "mean": list(p.mean)}) == p


def test_mistakes_in_configs_are_named():
    with pytest.raises(UserError, match="did you mean 'ViT-L-14'"):
        variant("ViT-L14")
    with pytest.raises(UserError, match=r"did you mean 'heads'"):
        data = CLIP_MU.to_dict()
        data["vision"]["head"] = 2
        CLIPConfig.from_dict(data)
    with pytest.raises(UserError, match="unknown name 'first'"):
        dataclasses.replace(CLIP_MU, vision=dataclasses.replace(CLIP_MU.vision, pool="first"))


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_full_sizes_have_the_right_outputs(name):
    config = VARIANTS[name]
    params = jax.eval_shape(lambda: init_params(CLIP(config), jax.random.key(0)))
    size = config.vision.image_size
    pixels = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    rows = jax.ShapeDtypeStruct((2, config.text.context), jnp.int32)
    zi, zt, scale, bias = jax.eval_shape(
        lambda p, x, i: CLIP(config).apply({"params": p}, x, i), params, pixels, rows
    )
    assert zi.shape == (1, config.embed_dim) and zt.shape == (2, config.embed_dim)
    assert scale.shape == bias.shape == ()
    assert size % config.vision.patch_size == 0 or "14-384" in name

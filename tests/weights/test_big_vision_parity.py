"""What we write is what big_vision loads and computes: by its rules always, by itself if here."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from openseg_jax.compat.big_vision import model_config
from openseg_jax.models.clip import CLIP
from openseg_jax.weights import big_vision, npz
from tests.weights import big_vision_side
from tests.weights.lit import LIT_HEAD_MU, LIT_MU
from tests.weights.tiny import SIGLIP_MU, random_params

RTOL = 1e-5
RUN = "PYTHONPATH=path/to/big_vision python -m pytest -n0 tests/weights/test_big_vision_parity.py"
CONFIGS = {"siglip": SIGLIP_MU, "lit": LIT_MU, "lit-head": LIT_HEAD_MU}


def inputs(config):
    draw = np.random.default_rng(1)
    size = config.vision.image_size
    image = draw.uniform(-1, 1, (2, size, size, 3)).astype(np.float32)
    ids = draw.integers(0, config.text.vocab_size, (3, config.text.context)).astype(np.int32)
    return image, ids


def ours(config, params, image, ids):
    run = jax.jit(lambda p: CLIP(config).apply({"params": p}, image, jnp.asarray(ids)))
    with jax.default_matmul_precision("highest"):
        zimg, ztxt, scale, bias = run(params)
    return {"image": zimg, "text": ztxt, "scale": scale, "bias": bias}


def close(want, got):
    return max(
        float(np.abs(np.asarray(want[key]) - np.asarray(got[key])).max() / np.std(want[key]))
        for key in ("image", "text")
    )


@pytest.mark.parametrize(
    ("kind", "scan"), [("siglip", False), ("siglip", True), ("lit", True), ("lit-head", False)]
)
def test_their_loader_takes_what_we_write_and_computes_the_same(tmp_path, kind, scan):
    config = CONFIGS[kind]
    params = random_params(config)
    path = tmp_path / "x.npz"
    big_vision.save_npz(path, params, config, scan=scan)
    image, ids = inputs(config)
    theirs = big_vision_side.run(config, str(path), image, ids, scan=scan)
    want = ours(config, params, image, ids)
    assert close(want, theirs) < RTOL
    np.testing.assert_allclose(np.exp(theirs["t"][0]), want["scale"], rtol=1e-6)
    if config.logit_bias:
        np.testing.assert_allclose(theirs["b"][0], want["bias"])


def test_image_blocks_are_turned_and_text_blocks_are_not(tmp_path):
    """Their image loader changes the layout as the model wants it; their text loader does not."""
    big_vision.save_npz(tmp_path / "x.npz", random_params(SIGLIP_MU), SIGLIP_MU, scan=True)
    image, ids = inputs(SIGLIP_MU)
    with pytest.raises(AssertionError):
        big_vision_side.run(SIGLIP_MU, str(tmp_path / "x.npz"), image, ids, scan=False)
    tower = big_vision_side.load_params(f"{tmp_path}/x.npz:img")
    apart = big_vision_side.to_layout(tower, "Transformer", scan=False)
    again = big_vision_side.to_layout(apart, "Transformer", scan=True)
    jax.tree.map(np.testing.assert_array_equal, tower, again)


def test_a_wrong_activation_and_a_wrong_eps_show(tmp_path):
    params = random_params(SIGLIP_MU)
    big_vision.save_npz(tmp_path / "x.npz", params, SIGLIP_MU)
    image, ids = inputs(SIGLIP_MU)
    theirs = big_vision_side.run(SIGLIP_MU, str(tmp_path / "x.npz"), image, ids, scan=False)
    for change in ({"act": "gelu"}, {"eps": 1e-4}):
        towers = {
            name: dataclasses.replace(getattr(SIGLIP_MU, name), **change)
            for name in ("vision", "text")
        }
        wrong = ours(dataclasses.replace(SIGLIP_MU, **towers), params, image, ids)
        assert close(wrong, theirs) > 3 * RTOL


@pytest.mark.parametrize("root", big_vision.ROOTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_their_loader_finds_every_root_and_dtype(tmp_path, root, dtype):
    params = random_params(SIGLIP_MU)
    path = tmp_path / "x.npz"
    big_vision.save_npz(path, params, SIGLIP_MU, root=root, dtype=dtype)
    tree = big_vision_side.load_params(str(path))
    kernel = tree["img"]["embedding"]["kernel"]
    assert kernel.dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32)
    want = np.asarray(params["visual"]["conv1"]["kernel"]).astype(kernel.dtype)
    np.testing.assert_array_equal(kernel, want)
    _, back, _ = big_vision.from_arrays(npz.read_npz(path), name="x", file="x")
    np.testing.assert_array_equal(back["visual"]["conv1"]["kernel"], want.astype(np.float32))


def big_vision_model(config, scan):
    """The real model and its loader, or a skip that says how to run this."""
    if importlib.util.find_spec("big_vision") is None:
        pytest.skip(f"big_vision is not importable (it has no package): {RUN}")
    ml_collections = pytest.importorskip("ml_collections")
    try:
        from big_vision.models.proj.image_text import two_towers
    except ImportError as error:
        pytest.skip(f"big_vision cannot be imported ({error}): pip install what it needs; {RUN}")

    about = model_config(config, scan=scan)
    return two_towers, two_towers.Model(**about), ml_collections.ConfigDict(about)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("scan", [False, True])
def test_big_vision_itself_loads_and_computes_the_same(tmp_path, kind, scan):
    config = CONFIGS[kind]
    two_towers, model, about = big_vision_model(config, scan)
    params = random_params(config)
    path = tmp_path / "x.npz"
    big_vision.save_npz(path, params, config, scan=scan)
    image, ids = inputs(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image, ids)["params"]
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    loaded = jax.tree.map(jnp.asarray, two_towers.load(zeros, str(path), about))
    with jax.default_matmul_precision("highest"):
        zimg, ztxt, out = model.apply({"params": loaded}, image, ids)
    want = ours(config, params, image, ids)
    assert close(want, {"image": zimg, "text": ztxt}) < RTOL
    np.testing.assert_allclose(out["t"][0], want["scale"], rtol=1e-6)

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.models.clip import CLIP, normalize
from openseg_jax.models.variants import CLIPConfig, Preprocess, TextConfig, VisionConfig
from openseg_jax.ops.losses import softmax_contrastive
from openseg_jax.tasks.base import Watched
from openseg_jax.tasks.clip import ClipTask

CONFIG = CLIPConfig(
    "mu", 8, VisionConfig(16, 8, 16, 1, 2, 32, "quick_gelu"),
    TextConfig(6, 20, 16, 1, 2, 32, "quick_gelu"),
)  # fmt: skip
KEY = jax.random.key(0)


def _task(**settings):
    return ClipTask(CLIP(CONFIG), Preprocess(16), **settings)


def _batch(rows=4):
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 19, (rows, 6)).astype(np.int32)
    ids[:, -1] = 19
    return {
        "image": rng.integers(0, 256, (rows, 16, 16, 3)).astype(np.uint8),
        "ids": ids,
        "caption": np.array([7, 7, *range(rows - 2)], np.int32),
    }


@pytest.fixture(scope="module")
def params():
    return _task().init(KEY, {})[0]


def test_pixels_are_scaled_like_the_weights_expect():
    image = np.array([[[[0, 128, 255]]]], np.uint8)
    rule = Preprocess(16)
    want = (image.astype(np.float64) / 255 - rule.mean) / rule.std
    np.testing.assert_allclose(_task().pixels(jnp.asarray(image)), want, rtol=1e-5, atol=1e-6)


def test_loss_is_contrast_of_the_towers(params):
    batch = _batch()
    task = _task()
    got, metrics = jax.jit(task.loss)(params, {}, batch, key=KEY)
    image, text, scale, _ = CLIP(CONFIG).apply(
        {"params": params}, task.pixels(batch["image"]), batch["ids"]
    )
    positive = batch["caption"][:, None] == batch["caption"][None]
    want = softmax_contrastive(image, text, scale, jnp.asarray(positive))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert float(metrics["contrastive"][1]) == 4.0
    best = np.asarray(image @ text.T).argmax(1)
    hits = sum(batch["caption"][b] == c for b, c in zip(best, batch["caption"], strict=True))
    assert float(metrics["retrieval"][0]) == hits
    # the wrong variant: equal captions taken for negatives
    alone = softmax_contrastive(image, text, scale, jnp.eye(4, dtype=bool))
    assert abs(float(got) - float(alone)) > 1e-3


def test_patch_mean_is_what_the_cam_head_pools(params):
    batch = _batch()
    plain, _ = jax.jit(_task().loss)(params, {}, batch, key=KEY)
    got, metrics = jax.jit(_task(patch_mean_weight=0.5).loss)(params, {}, batch, key=KEY)
    pixels = _task().pixels(batch["image"])
    clip, bound = CLIP(CONFIG), {"params": params}
    patches = clip.apply(bound, pixels, project=True, method=CLIP.encode_patches).mean(axis=1)
    _, text, scale, _ = clip.apply(bound, pixels, batch["ids"])
    positive = batch["caption"][:, None] == batch["caption"][None]
    want = softmax_contrastive(normalize(patches), text, scale, jnp.asarray(positive))
    np.testing.assert_allclose(got, plain + 0.5 * want, rtol=1e-5)
    np.testing.assert_allclose(metrics["patch_mean"][0], 4 * want, rtol=1e-5)


def test_sigmoid_uses_the_bias():
    config = dataclasses.replace(CONFIG, logit_bias=True)
    task = ClipTask(CLIP(config), Preprocess(16), loss_name="sigmoid")
    params, _ = task.init(KEY, {})
    loss = jax.jit(task.loss)
    value, _ = loss(params, {}, _batch(), key=KEY)
    other, _ = loss({**params, "logit_bias": jnp.float32(0)}, {}, _batch(), key=KEY)
    assert np.isfinite(value) and abs(float(value) - float(other)) > 0.01


def test_temperature_is_bounded(params):
    hot = {**params, "logit_scale": jnp.float32(9.0)}
    np.testing.assert_allclose(jnp.exp(_task().constrain(hot)["logit_scale"]), 100.0, rtol=1e-5)
    assert _task().constrain(params)["logit_scale"] == params["logit_scale"]


def test_unknown_loss_is_named():
    with pytest.raises(UserError, match="softmax"):
        _task(loss_name="softmx")


def test_what_it_shows_of_a_batch(params):
    task, batch = _task(), _batch()
    assert isinstance(task, Watched)
    pictures, spread = jax.jit(
        lambda p, b: (task.pictures(p, {}, b, key=KEY), task.histograms(p, {}, b, key=KEY))
    )(params, batch)
    image, text, _, _ = CLIP(CONFIG).apply(
        {"params": params}, task.pixels(batch["image"]), batch["ids"]
    )
    cosines = np.asarray(image @ text.T)
    (picture,) = pictures["similarity"]
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    blue = 255 - np.asarray(picture)[8::16, 8::16, 0].astype(int)  # white is the least
    least, most = (np.unravel_index(f(cosines), (4, 4)) for f in (np.argmin, np.argmax))
    assert blue[least] == 0 and blue[most] == 255
    positive = batch["caption"][:, None] == batch["caption"][None]
    for name, members in (("matching", positive), ("other", ~positive)):
        numbers = np.asarray(spread[f"cosines/{name}"])
        np.testing.assert_allclose(numbers[members], cosines[members], rtol=1e-5, atol=1e-6)
        assert np.isnan(numbers[~members]).all()

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.models.variants import Preprocess, VisionConfig
from openseg_jax.models.vit import VisionTransformer
from openseg_jax.tasks.base import Watched
from openseg_jax.tasks.maft import MaftTask
from openseg_jax.train.optim import trainable_names
from openseg_jax.train.state import flat_names

VISION = VisionConfig(32, 8, 32, 2, 2, 64, "quick_gelu")
KEY = jax.random.key(0)


@functools.cache
def made():
    tower = VisionTransformer(VISION, 16, scan=False)
    weights = {"visual": jax.jit(tower.init)(KEY, jnp.zeros((1, 32, 32, 3)))["params"]}
    text = np.eye(5, 16, dtype=np.float32)
    task = MaftTask(tower, Preprocess(32), weights, text, 1, (32, 32), temperature=10.0)
    moved = jax.tree.map(lambda x: x * 1.1, weights)

    def loss(params, frozen, data):
        return task.loss(params, frozen, data, key=KEY)

    # One program for all tests: a batch of one, with rows of padding.
    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    return task, moved, task.init(KEY, batch())[1], run


def batch(fill=0, seed=0):
    """Makes a picture with 3 segments and 4 proposals; rows beyond hold `fill`."""
    rng = np.random.default_rng(seed)
    segments, proposals = np.full((1, 5, 32, 32), bool(fill)), np.full((1, 7, 16, 16), fill)
    segments[:, :3] = rng.random((1, 3, 32, 32)) < 0.3
    proposals = proposals.astype(np.float32)
    proposals[:, :4] = rng.random((1, 4, 16, 16))
    classes = np.full((1, 5), 4 * fill, np.int32)
    classes[:, :3] = rng.integers(0, 5, (1, 3))
    return {
        "image": rng.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8),
        "segments": segments,
        "segment_class": classes,
        "segment_valid": np.arange(5)[None] < 3,
        "proposals": proposals,
        "proposals_valid": np.arange(7)[None] < 4,
    }


def test_what_padding_holds_changes_nothing():
    _, params, frozen, run = made()
    (loss, metrics), (grads, _) = run(params, frozen, batch(0))
    (other, _), (filled, _) = run(params, frozen, batch(1))
    assert float(metrics["mask_aware"][1]) == 3 * 4
    np.testing.assert_allclose(other, loss, rtol=1e-5)
    for name, grad in flat_names(grads).items():
        scale = np.abs(grad).max() + 1e-9
        np.testing.assert_allclose(flat_names(filled)[name], grad, atol=1e-4 * scale, err_msg=name)
    (changed, _), _ = run(params, frozen, batch(0, seed=1))
    assert abs(float(changed) - float(loss)) > 1e-6


def test_no_labelled_pixel_leaves_the_distillation():
    _, params, frozen, run = made()
    data = batch()
    nothing = data | {"segment_valid": np.zeros_like(data["segment_valid"])}
    (loss, metrics), (grads, _) = run(params, frozen, nothing)
    away, count = metrics["distillation"]
    np.testing.assert_allclose(loss, 0.1 * away / count, rtol=1e-6)
    assert metrics["mask_aware"] == (0, 0)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_student_and_teacher_start_equal_and_the_teacher_stays():
    task, params, frozen, run = made()
    start, _ = task.init(KEY, batch())
    (_, metrics), _ = run(start, frozen, batch())
    assert metrics["distillation"][0] < 1e-10
    (_, metrics), (_, taught) = run(params, frozen, batch())
    assert metrics["distillation"][0] > 1e-8
    assert not any(np.abs(g).max() for g in jax.tree.leaves(taught["teacher"]))


def test_what_learns():
    task, params, _, _ = made()
    chosen = trainable_names(task.trainable, flat_names(params))
    parts = {name.split("/")[1 if "ln_post" in name else 2] for name in chosen}
    assert parts == {"attn", "ln_1", "ln_2", "ln_post"}
    assert all("mlp" not in n and "embedding" not in n for n in chosen)


def test_a_batch_without_proposals_needs_a_generator():
    task, _, _, _ = made()
    data = {k: v for k, v in batch().items() if not k.startswith("proposals")}
    with pytest.raises(UserError, match=r"input\.masks\.proposals"):
        task.init(KEY, data)


def test_what_it_shows_of_a_batch():
    task, params, frozen, _ = made()
    assert isinstance(task, Watched)
    data = batch(fill=1)
    pictures, spread = jax.jit(
        lambda p, f, b: (task.pictures(p, f, b, key=KEY), task.histograms(p, f, b, key=KEY))
    )(params, frozen, data)
    segments = np.asarray(pictures["masks/segments"])
    anywhere = (data["segments"] & data["segment_valid"][..., None, None]).any(axis=1)
    changed = (segments != data["image"]).any(-1)
    assert not changed[~anywhere].any() and changed[anywhere].mean() > 0.9
    assert pictures["masks/best_proposals"].shape == segments.shape
    iou, seen = (np.asarray(spread[f"masks/{name}"]) for name in ("best_iou", "attention"))
    assert iou.shape == (1, 5) and (iou[:, :3] > 0).all() and np.isnan(iou[:, 3:]).all()
    assert seen.shape == (1, 7, 2) and np.isnan(seen[:, 4:]).all()
    assert ((seen[:, :4] >= 0) & (seen[:, :4] < 1)).all() and (seen[:, :4] > 0).any()

import jax
import numpy as np
import pytest
from openseg_jax.configs.miniature_segclip import get_config

from openseg_jax.inputs.pipeline import batches
from openseg_jax.tasks.base import Watched
from openseg_jax.train import setup

KEY = jax.random.key(0)


def test_what_it_shows_of_a_batch():
    config = get_config("tiny")
    built = setup.build(config)
    task = built.task
    assert isinstance(task, Watched)
    batch = next(batches(built.source, 2))
    # Any numbers will do; drawing the real start is another program to compile.
    rng = np.random.default_rng(0)
    shapes, frozen = jax.eval_shape(lambda: task.init(KEY, batch))
    params = jax.tree.map(lambda s: rng.normal(size=s.shape, scale=0.1).astype(s.dtype), shapes)
    pictures, spread = jax.jit(
        lambda p, b: (task.pictures(p, frozen, b, key=KEY), task.histograms(p, frozen, b, key=KEY))
    )(params, batch)
    centres = config.task.segclip.centers
    assert pictures["regions"].shape == batch["image"].shape
    # Every patch is painted in its centre's colour, half of the image shines through.
    assert (np.asarray(pictures["regions"]) != batch["image"]).any(-1).mean() > 0.95
    spread = {name: np.asarray(x) for name, x in spread.items()}
    assert spread["assignment/share"].shape == (2, centres)
    np.testing.assert_allclose(spread["assignment/share"].sum(-1), 1, rtol=1e-5)
    assert (spread["assignment/largest"] >= 1 / centres).all()
    counts = np.stack([np.bincount(row, minlength=centres) for row in spread["assignment/centre"]])
    np.testing.assert_allclose(counts / counts.sum(-1)[:, None], spread["assignment/share"])


@pytest.mark.slow
def test_images_are_looked_at_by_themselves_however_they_are_trained():
    """The published mixing is one of training; evaluation sees one image at a time."""
    config = get_config("tiny")
    config.task.segclip.cross_batch_kv = "torch18"
    built = setup.build(config)
    task = built.task
    batch = next(batches(built.source, 2))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: task.init(KEY, batch))[0]
    params = jax.tree.map(lambda s: rng.normal(size=s.shape, scale=0.3).astype(s.dtype), shapes)
    look = jax.jit(lambda image: task.histograms(params, {}, {"image": image}, key=KEY))
    both, one = (look(batch["image"][:n])["assignment/largest"] for n in (2, 1))
    np.testing.assert_allclose(both[:1], one, atol=1e-4)
    mixed = task.model.apply({"params": params}, task.pixels(batch["image"]), method=encode)
    assert np.abs(np.asarray(mixed.grouping.soft.max(axis=1))[:1] - one).max() > 2e-3


def encode(model, pixels):
    return model.encode_image(pixels)

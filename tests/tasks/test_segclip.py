import jax
import numpy as np
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

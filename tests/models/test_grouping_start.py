"""The group module's start from tokens: it groups like k-means and returns what it was given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.models.grouping import GroupModule
from openseg_jax.models.grouping_start import FAINTNESS, SHIFT, start_from_tokens

WIDTH, KINDS = 32, 4
MODULE = GroupModule(width=WIDTH, heads=2, centers=KINDS, cross_layers=1, eps=1e-5)


def standard(x):
    return (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)


@pytest.fixture(scope="module")
def world():
    """Tokens of four kinds that lie far apart, and each one's kind."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, KINDS, (6, 24))
    tokens = 3 * standard(rng.normal(size=(KINDS, WIDTH)))[kinds]
    return jnp.asarray(tokens + 0.3 * rng.normal(size=tokens.shape), jnp.float32), kinds


@pytest.fixture(scope="module")
def groupings(world):
    """What the drawn module and the started one make of the same tokens."""
    drawn = jax.jit(MODULE.init)(jax.random.key(0), world[0])["params"]
    started = jax.jit(start_from_tokens)(drawn, world[0], jax.random.key(1))
    assert jax.tree.map(jnp.shape, started) == jax.tree.map(jnp.shape, drawn)
    run = jax.jit(lambda params: MODULE.apply({"params": params}, world[0]))
    return run(drawn), run(started), started


def purity(hard, kinds):
    """Share of patches whose region is mostly of their kind."""
    kept = 0
    for groups, truth in zip(np.asarray(hard), kinds, strict=True):
        table = groups @ np.eye(KINDS)[truth]
        kept += table.max(axis=1).sum()
    return kept / kinds.size


def test_it_groups_what_is_alike_and_the_drawn_module_does_not(world, groupings):
    drawn, started, _ = groupings
    assert purity(started.hard, world[1]) == 1.0
    assert purity(drawn.hard, world[1]) < 0.9


def test_noise_moves_no_patch_that_lies_near_its_centre(groupings):
    _, started, _ = groupings
    top = np.sort(np.asarray(started.logits), axis=1)
    # Gumbel noise of two centres differs by more than this once in 20,000 draws.
    assert (top[:, -1] - top[:, -2]).min() > 10.0


def test_regions_are_the_means_of_their_patches(world, groupings):
    drawn, started, _ = groupings
    tokens = np.asarray(world[0])
    size = tokens.std(axis=-1).mean()

    def distance(grouping):
        """Of regions, as a norm would see them, from their patches' mean."""
        hard, found = np.asarray(grouping.hard), []
        for groups, image, regions in zip(hard, tokens, np.asarray(grouping.regions), strict=True):
            for mask, region in zip(groups, regions, strict=True):
                if mask.any():
                    mean = standard(image)[mask > 0.5].mean(axis=0)
                    found.append(np.abs(standard(region) - standard(mean)).max())
        return max(found)

    # A centre counts FAINTNESS, and is itself close to the mean of its patches.
    assert distance(started) < 2 * FAINTNESS
    assert distance(drawn) > 1.0
    used = np.asarray(started.hard).sum(-1) > 0.5
    level = np.asarray(started.regions).mean(-1)[used]
    np.testing.assert_allclose(level, SHIFT * size, rtol=0.1)


def test_centres_do_not_depend_on_the_number_of_devices_but_on_the_key(world, groupings):
    drawn = jax.jit(MODULE.init)(jax.random.key(0), world[0])["params"]
    again = jax.jit(start_from_tokens)(drawn, world[0], jax.random.key(1))
    np.testing.assert_array_equal(again["center_embedding"], groupings[2]["center_embedding"])
    scale = np.asarray(again["center_embedding"])
    np.testing.assert_allclose(scale.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(scale.std(-1), 1, rtol=1e-3)

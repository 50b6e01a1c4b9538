import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.models.remat import REMAT, remat_name
from openseg_jax.models.variants import VisionConfig
from openseg_jax.models.vit import VisionTransformer

CONFIG = VisionConfig(64, 8, 64, 6, 2, 256, "quick_gelu")


@functools.cache
def program(remat):
    tower = VisionTransformer(CONFIG, 32, remat=remat, backend="xla")
    image = jax.random.normal(jax.random.key(0), (4, 64, 64, 3))
    params = VisionTransformer(CONFIG, 32).init(jax.random.key(1), image)

    def value(params, image):
        return jnp.square(tower.apply(params, image)).mean()

    compiled = jax.jit(jax.grad(value)).lower(params, image).compile()
    return compiled.memory_analysis().temp_size_in_bytes, compiled(params, image)


@pytest.mark.slow
def test_all_names_give_the_same_gradients():
    want = program("none")[1]
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want))
    for remat in REMAT:
        got = program(remat)[1]
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * largest)


@pytest.mark.slow
def test_recomputing_more_needs_less_memory():
    none, dots, full = (program(remat)[0] for remat in ("none", "dots", "full"))
    assert full < dots < none
    # Of six blocks the inputs are kept, and one block's inside is there at a time.
    assert full < 0.5 * none


def test_names():
    names = [remat_name(x) for x in (True, False, "True", "dots")]
    assert names == ["full", "none", "full", "dots"]
    with pytest.raises(UserError, match=r"remat: unknown name 'dot'; did you mean 'dots'"):
        remat_name("dot")

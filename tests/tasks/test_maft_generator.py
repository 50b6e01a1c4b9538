import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.tasks.maft_generator import GeneratorTask, Weights, criterion, frozen_generator

KEY = jax.random.key(0)
PREDICTIONS, QUERIES = 4, 6


@dataclasses.dataclass(frozen=True)
class Fake:
    """Predicts its own parameters, whatever the picture."""

    def apply(self, variables: Any, image: Any, rows: Any, *, train: bool, rngs: Any) -> Any:
        del image
        assert rows.shape == (4, 8)
        p = variables["params"]
        noise = jax.random.normal(rngs["dropout"], p["masks"].shape) if train and rngs else 0.0
        return {"masks": list(p["masks"] + 0 * noise), "class_embed": list(p["class_embed"])}


def task(parity=None):
    rng = np.random.default_rng(0)
    weights = {
        "generator": {
            "masks": rng.normal(size=(PREDICTIONS, 2, QUERIES, 8, 8)).astype(np.float32),
            "class_embed": rng.normal(size=(PREDICTIONS, 2, QUERIES, 8)).astype(np.float32),
        },
        "non_object": rng.normal(size=(1, 8)).astype(np.float32),
    }
    generator: Any = Fake()
    text = np.eye(3, 8, dtype=np.float32)
    return GeneratorTask(generator, weights, text, temperature=10.0, parity=parity)


def batch(fill=0):
    rng = np.random.default_rng(1)
    segments = np.full((2, 4, 30, 28), bool(fill))
    segments[:, :3] = rng.random((2, 3, 30, 28)) < 0.4
    return {
        "image": np.zeros((2, 30, 28, 3), np.uint8),
        "segments": segments,
        "segment_class": np.array([[0, 1, 2, 0], [1, 2, 0, fill]], np.int32),
        "segment_valid": np.array([[True, True, True, False], [True, True, False, False]]),
    }


@functools.cache
def program(parity):
    made = task(parity)
    params, frozen = made.init(KEY, batch())

    def loss(params, data):
        return made.loss(params, frozen, data, key=KEY)

    return params, jax.jit(jax.value_and_grad(loss, has_aux=True))


def run(parity, data):
    params, loss = program(parity)
    (value, metrics), grads = loss(params, data)
    return float(value), metrics, grads


@pytest.mark.slow
def test_every_prediction_learns_and_parity_leaves_one_out():
    found, _, grads = run(None, batch())
    sizes = np.abs(grads["generator"]["masks"]).sum(axis=(1, 2, 3, 4))
    assert (sizes > 0).all()
    less, _, grads = run("reference", batch())
    sizes = np.abs(grads["generator"]["masks"]).sum(axis=(1, 2, 3, 4))
    assert less < found and (sizes > 0).tolist() == [True, True, False, True]
    assert np.abs(grads["non_object"]).max() > 0


def test_what_padding_holds_changes_nothing():
    first, metrics, _ = run(None, batch(0))
    data = batch(1)
    # An invalid row's mask and class are arbitrary.
    second, _, _ = run(None, data)
    np.testing.assert_allclose(second, first, rtol=1e-6)
    assert set(metrics) == {"classes", "mask", "dice"}


def test_no_segment_leaves_the_classes():
    data = batch()
    data["segment_valid"][:] = False
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(2, QUERIES, 4)), jnp.float32)
    masks = jnp.zeros((2, QUERIES, 8, 7))
    truth = {k: x for k, x in data.items() if k != "image"}
    found = jax.jit(lambda x: criterion(x, masks, **truth, weights=Weights()))(logits)
    assert float(found["mask"]) == float(found["dice"]) == 0
    want = -jax.nn.log_softmax(logits)[..., -1].mean()
    np.testing.assert_allclose(found["classes"], want, rtol=1e-6)


@pytest.mark.parametrize("parity", [None, "reference"])
def test_a_frozen_generator_gives_masks_of_the_pictures_size(parity):
    made = task()
    fake: Any = made.generator
    params = {"generator": made.weights["generator"], "text": np.zeros((4, 8), np.float32)}
    image = np.zeros((2, 30, 28, 3), np.uint8)
    propose: Any = frozen_generator(fake, parity=parity)
    masks, valid = propose(params, image, KEY)
    assert masks.shape == (2, QUERIES, 30, 28) and valid.all()
    assert float(masks.min()) >= 0 and float(masks.max()) <= 1

"""The dense CRF against a float64 oracle, and what must change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.ops import crf
from tests.ops import lattice_oracle

BACKENDS = ["host", "device"]
SIZE = (9, 11)


def scene(labels=3, size=SIZE, seed=0):
    rng = np.random.default_rng(seed)
    image = (
        rng.integers(0, 30, (*size, 3))
        + np.where(np.arange(size[1]) < size[1] // 2, 60, 180)[None, :, None]
    )
    return image.astype(np.uint8), rng.random((labels, *size)).astype(np.float32)


def run(*args, **kwargs):
    return np.asarray(crf.dense_crf(*args, **kwargs))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wrap", [False, True])
def test_matches_oracle(backend, wrap):
    image, probs = scene()
    config = crf.CRFConfig(wrap_u8=wrap)
    want = lattice_oracle.mean_field(crf.crf_image(image, wrap_u8=wrap), probs, iterations=5)
    got = run(image, probs, iterations=5, config=config, backend=backend)
    np.testing.assert_allclose(got, want, atol=2e-4)
    one_less = run(image, probs, iterations=4, config=config, backend=backend)
    assert np.abs(one_less - want).max() > 2e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_parameters_match_oracle(backend):
    image, probs = scene()
    config = crf.CRFConfig(2.0, 1.5, 20.0, 9.0, 2.5)
    want = lattice_oracle.mean_field(crf.crf_image(image), probs, 3, (2, 20, 9), (1.5, 2.5))
    got = run(image, probs, iterations=3, config=config, backend=backend)
    np.testing.assert_allclose(got, want, atol=2e-4)


def test_exact_gaussian_matches_its_formula_on_both_backends():
    image, probs = scene()
    valid = np.ones(SIZE, bool)
    valid[:, -3:] = False
    crop = (slice(None), slice(None, -3))
    y, x = (a.ravel().astype(np.float64) for a in np.indices((SIZE[0], SIZE[1] - 3)))
    colour = image[crop][..., ::-1].reshape(-1, 3).astype(np.float64)
    kernel = np.zeros((len(x), len(x)))
    for weight, features in (
        (3, np.stack([x, y])),
        (4, np.concatenate([np.stack([x, y]) / 67, colour.T / 3])),
    ):
        gauss = np.exp(-((features[:, :, None] - features[:, None]) ** 2).sum(0) / 2)
        norm = gauss.sum(1) ** -0.5
        kernel += weight * norm[:, None] * gauss * norm
    logits = np.log(np.clip(probs[:, *crop].reshape(3, -1).T.astype(np.float64), 1e-5, 1))
    q = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for _ in range(10):
        score = logits + kernel @ q
        q = np.exp(score - score.max(1, keepdims=True))
        q /= q.sum(1, keepdims=True)
    config = crf.CRFConfig(kernel="gaussian")
    for backend in BACKENDS:
        got = run(image, probs, valid=valid, config=config, backend=backend)
        np.testing.assert_allclose(got[:, *crop].reshape(3, -1).T, q, atol=1e-4)
    lattice = run(image, probs, valid=valid, backend="host")
    assert np.abs(lattice[:, *crop].reshape(3, -1).T - q).max() > 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_dead_labels_change_nothing(backend):
    image, probs = scene(labels=6)
    alive = np.array([True, False, True, False, False])
    keep = np.append(True, alive)
    want = run(image, probs[keep], backend=backend)
    got = run(image, probs, alive, backend=backend)
    assert not got[~keep].any()
    if backend == "host":
        np.testing.assert_array_equal(got[keep], want)
    np.testing.assert_allclose(got[keep], want, atol=1e-6)
    # What dead channels hold does not matter, bit for bit.
    loud = probs.copy()
    loud[~keep] = 1
    np.testing.assert_array_equal(run(image, loud, alive, backend=backend), got)
    assert np.abs(run(image, probs, backend=backend)[keep] - want).max() > 1e-2


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_changes_nothing(backend):
    image, probs = scene()
    height, width = SIZE
    want = run(image, probs, backend=backend)
    rng = np.random.default_rng(1)
    wide = rng.integers(0, 256, (height + 3, width + 2, 3)).astype(np.uint8)
    stack = rng.random((3, height + 3, width + 2)).astype(np.float32)
    wide[:height, :width], stack[:, :height, :width] = image, probs
    valid = np.zeros(wide.shape[:2], bool)
    valid[:height, :width] = True
    got = run(wide, stack, valid=valid, backend=backend)
    np.testing.assert_allclose(got[:, :height, :width], want, atol=2e-6)
    assert (got[0][~valid] == 1).all() and not got[1:, ~valid].any()
    unmasked = run(wide, stack, backend=backend)[:, :height, :width]
    assert np.abs(unmasked - want).max() > 1e-3


def test_holes_in_the_valid_mask_agree_between_backends():
    image, probs = scene()
    valid = np.random.default_rng(2).random(SIZE) < 0.7
    host = run(image, probs, valid=valid, backend="host")
    np.testing.assert_allclose(run(image, probs, valid=valid, backend="device"), host, atol=2e-5)
    other = image.copy()
    other[~valid] = 255
    np.testing.assert_array_equal(run(other, probs, valid=valid, backend="host"), host)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_valid_is_background(backend):
    image, probs = scene()
    got = run(image, probs, valid=np.zeros(SIZE, bool), backend=backend)
    assert (got[0] == 1).all() and not got[1:].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_pixel_and_one_label(backend):
    image, probs = scene(size=(1, 1))
    got = run(image, probs, backend=backend)
    np.testing.assert_allclose(got, lattice_oracle.mean_field(image, probs), atol=1e-4)
    image, probs = scene()
    got = run(image, probs, np.zeros(2, bool), backend=backend)
    np.testing.assert_allclose(got[0], 1, atol=1e-6)
    np.testing.assert_allclose(run(image, probs[:1], backend="host"), 1, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_constant_image_and_all_background(backend):
    image = np.full((*SIZE, 3), 128, np.uint8)
    probs = np.zeros((3, *SIZE), np.float32)
    probs[0] = 1
    got = run(image, probs, backend=backend)
    assert (crf.label_map(got) == 0).all() and np.isfinite(got).all()
    # A speck that the unary alone would keep is outvoted by like-coloured neighbours.
    probs[:, 4, 5] = [0.45, 0.55, 0]
    before = run(image, probs, iterations=0, backend=backend)
    assert crf.label_map(before)[4, 5] == 1
    assert crf.label_map(run(image, probs, backend=backend))[4, 5] == 0


def test_zero_iterations_normalise_the_unary():
    image, probs = scene()
    clipped = np.clip(probs, 1e-5, 1)
    for backend in BACKENDS:
        got = run(image, probs, iterations=0, backend=backend)
        np.testing.assert_allclose(got, clipped / clipped.sum(0), rtol=1e-5)


def test_heavy_weights_stay_finite():
    image, probs = scene()
    config = crf.CRFConfig(spatial_weight=300.0, bilateral_weight=400.0)
    want = lattice_oracle.mean_field(crf.crf_image(image), probs, 3, weights=(300, 400))
    got = run(image, probs, config=config, iterations=3, backend="host")
    np.testing.assert_allclose(got, want, atol=1e-3)


def test_a_mapped_batch_equals_single_images_on_the_host():
    pairs = [scene(seed=s) for s in (1, 2)]
    images, probs = (np.stack(a) for a in zip(*pairs, strict=True))
    alive = np.array([[True, True], [True, False]])
    valid = np.ones((2, *SIZE), bool)
    valid[1, :, -2:] = False
    want = [run(*pairs[i], alive[i], valid=valid[i], backend="host") for i in range(2)]

    def one(image, probs, alive, valid):
        return crf.dense_crf(image, probs, alive, valid=valid, backend="device")

    got = jax.vmap(one)(images, probs, alive, valid)
    np.testing.assert_allclose(got, np.stack(want), atol=2e-5)


def test_default_backend_is_device_inside_jit():
    image, probs = scene()
    traced = jax.jit(lambda i, p: crf.dense_crf(i, p))(image, probs)
    np.testing.assert_allclose(traced, run(image, probs, backend="device"), atol=1e-6)
    with pytest.raises(UserError, match="device"):
        jax.jit(lambda i, p: crf.dense_crf(i, p, backend="host"))(image, probs)


def test_a_lattice_that_does_not_fit_is_loud():
    image, probs = scene()
    assert np.isnan(run(image, probs, backend="device", capacity=20)).all()


def test_crf_image_wraps_as_a_cast_to_bytes_does():
    image = np.array([[[0, 0, 0], [255, 255, 255], [122, 117, 104], [123, 116, 105]]], np.uint8)
    # Blue − 104.008, green − 116.669, red − 122.675, toward zero, modulo 256.
    want = [[[152, 140, 134], [150, 138, 132], [0, 0, 0], [0, 0, 0]]]
    for array in (image, jnp.asarray(image)):
        np.testing.assert_array_equal(crf.crf_image(array, wrap_u8=True), want)
        np.testing.assert_array_equal(crf.crf_image(array), image[..., ::-1])


def test_cam_probabilities():
    cams = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    alive = np.array([True, False, True])
    for array in (cams, jnp.asarray(cams)):
        got = crf.cam_probabilities(array, bg_factor=2.0, alive=alive)
        np.testing.assert_allclose(got[0], (1 - cams[[0, 2]].max(0)) ** 2, rtol=1e-5)
        np.testing.assert_array_equal(got[1:], cams)
    assert (crf.cam_probabilities(cams[:0])[0] == 1).all()
    assert (crf.cam_probabilities(cams, alive=np.zeros(3, bool))[0] == 1).all()


def test_label_masks_and_the_truncation_quirk():
    labels = np.array([[0, 2, 2], [0, 0, 1]], np.int32)
    full = crf.label_masks(labels, 4)
    assert full.shape == (4, 2, 3) and full.sum(axis=(1, 2)).tolist() == [1, 2, 0, 0]
    cut = crf.label_masks(labels, 4, one_hot_truncation=True)
    np.testing.assert_array_equal(cut, full[:2])
    assert crf.label_masks(labels * 0, 4, one_hot_truncation=True).shape == (0, 2, 3)
    np.testing.assert_array_equal(crf.label_masks(jnp.asarray(labels), 4), full)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((*SIZE, 3), np.float32)}, "image: expected uint8"),
        ({"image": np.zeros((0, 5, 3), np.uint8)}, "at least one pixel"),
        ({"probs": np.zeros((3, 2, 2), np.float32)}, "probs: expected"),
        ({"probs": np.zeros((0, *SIZE), np.float32)}, "background channel"),
        ({"alive": np.ones(3, bool)}, "alive: expected"),
        ({"valid": np.ones((2, 2), bool)}, "valid: expected"),
        ({"iterations": -1}, "iterations"),
        ({"backend": "hots"}, "did you mean 'host'"),
        ({"config": crf.CRFConfig(kernel="gauss")}, "did you mean 'gaussian'"),
        ({"config": crf.CRFConfig(colour_sigma=0.0)}, "colour_sigma: expected a positive"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    image, probs = scene()
    given = {"image": image, "probs": probs, **change}
    with pytest.raises(UserError, match=message):
        crf.dense_crf(**given)


def test_exact_gaussian_refuses_large_images():
    image = np.zeros((100, 100, 3), np.uint8)
    with pytest.raises(UserError, match="memory grows"):
        crf.dense_crf(
            image, np.ones((2, 100, 100), np.float32), config=crf.CRFConfig(kernel="gaussian")
        )

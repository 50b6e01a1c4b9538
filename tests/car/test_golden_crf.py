"""CaR golden: the dense CRF, alone and as the last step of whole traces."""

import math
import re

import numpy as np
import pytest

from openseg_jax.ops import crf
from tests import golden

REFERENCE = crf.CRFConfig(wrap_u8=True)


def single_cases():
    for path in golden.cases("car", "crf"):
        for name in golden.load(path)[0]:
            if match := re.fullmatch(r"in/image_(\d+)", name):
                yield pytest.param(path, int(match[1]), id=f"{path.stem}-{match[1]}")


def traces():
    for path in golden.cases("car", "recurrence"):
        arrays = golden.load(path)[0]
        if f"out/step{int(arrays['out/num_steps']) - 1}/masks" in arrays:
            yield pytest.param(path, id=path.stem)


CASES, TRACES = list(single_cases()), list(traces())


def assert_labels(got, want):
    """At most one pixel in 65k differs (goldens/car/README.md)."""
    wrong = int((np.asarray(got) != want).sum())
    assert wrong <= math.ceil(np.asarray(want).size / 65536), f"{wrong} pixels differ"


def assert_marginals(got, want, typical=3e-4):
    """Single pixels may move by 0.02, the rest by what float32 rounding moves them."""
    error = np.abs(np.asarray(got) - want.astype(np.float32))
    assert error.max() <= 0.02
    assert np.quantile(error, 0.999) <= typical


def parts(path, i):
    arrays, _ = golden.load(path)
    names = ("in/image", "in/cams", "in/bg_factor", "out/crf_image", "out/prob", "out/q")
    return arrays, *(arrays[f"{name}_{i}"] for name in names)


@pytest.mark.parametrize(("path", "i"), CASES)
def test_car_golden_crf_image_and_unary(path, i):
    _, image, cams, factor, want_image, want_prob, _ = parts(path, i)
    np.testing.assert_array_equal(crf.crf_image(image, wrap_u8=True), want_image)
    np.testing.assert_allclose(
        crf.cam_probabilities(cams, bg_factor=factor), want_prob, rtol=1e-6, atol=1e-7
    )
    assert (crf.crf_image(image, wrap_u8=False) != want_image).any()


@pytest.mark.parametrize("backend", ["host", "device"])
@pytest.mark.parametrize(("path", "i"), CASES)
def test_car_golden_crf_marginals(path, i, backend):
    arrays, image, cams, factor, _, _, want = parts(path, i)
    probs = crf.cam_probabilities(cams, bg_factor=factor)
    got = crf.dense_crf(image, probs, config=REFERENCE, backend=backend)
    assert_marginals(got, want)
    assert_labels(crf.label_map(got), arrays[f"out/label_{i}"])


@pytest.mark.parametrize(("path", "i"), CASES)
def test_car_golden_crf_masks(path, i):
    arrays, image, cams, factor, *_ = parts(path, i)
    want = arrays[f"out/joint_masks_{i}"]
    probs = crf.cam_probabilities(cams, bg_factor=factor)
    labels = crf.label_map(crf.dense_crf(image, probs, config=REFERENCE, backend="host"))
    reference = crf.label_masks(labels, len(cams), one_hot_truncation=True)
    assert reference.shape == want.shape
    assert_labels(reference, want)
    repaired = crf.label_masks(labels, len(cams))
    assert repaired.shape == cams.shape
    np.testing.assert_array_equal(repaired[: len(reference)], reference)
    assert not repaired[len(reference) :].any()


@pytest.mark.parametrize(("path", "i"), CASES)
def test_car_golden_crf_of_each_text_alone(path, i):
    arrays, image, cams, factor, *_ = parts(path, i)
    counts = []
    for cam in cams:
        probs = crf.cam_probabilities(cam[None], bg_factor=factor)
        labels = crf.label_map(crf.dense_crf(image, probs, config=REFERENCE, backend="host"))
        counts.append(len(crf.label_masks(labels, 1, one_hot_truncation=True)))
    np.testing.assert_array_equal(counts, arrays[f"out/sep_counts_{i}"])


@pytest.mark.parametrize(("path", "i"), CASES)
def test_car_golden_crf_exact_gaussian(path, i):
    arrays, image, _, _, _, probs, permutohedral = parts(path, i)
    if image.shape[0] * image.shape[1] > crf.GAUSSIAN_PIXELS:
        pytest.skip("image too large for the exact kernel")
    config = crf.CRFConfig(wrap_u8=True, kernel="gaussian")
    got = crf.dense_crf(image, probs, config=config, backend="host")
    assert_marginals(got, arrays[f"out/q_exact_gauss_{i}"])
    # The exact kernel is a different filter: it must not pass for the reference's lattice.
    assert np.quantile(np.abs(got - permutohedral), 0.999) > 0.02


@pytest.mark.parametrize(("path", "i"), CASES)
@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": 9},
        {"iterations": 11},
        {"config": crf.CRFConfig(wrap_u8=False)},
        {"config": crf.CRFConfig(wrap_u8=True, bilateral_weight=3.9)},
        {"config": crf.CRFConfig(wrap_u8=True, spatial_sigma=1.05)},
    ],
    ids=["9_iterations", "11_iterations", "no_wrap", "weight", "sigma"],
)
def test_car_golden_crf_rejects_wrong_variants(path, i, wrong):
    _, image, cams, factor, _, _, want = parts(path, i)
    probs = crf.cam_probabilities(cams, bg_factor=factor)
    got = crf.dense_crf(image, probs, backend="host", **{"config": REFERENCE, **wrong})
    with pytest.raises(AssertionError):
        assert_marginals(got, want)


@pytest.mark.parametrize("path", TRACES)
def test_car_golden_crf_of_traces(path):
    """The last step's maps give the final masks: jointly, or a sentence at a time."""
    arrays, meta = golden.load(path)
    last = f"out/step{int(arrays['out/num_steps']) - 1}"
    image, cams, alive = arrays["in/image"], arrays[f"{last}/masks"], arrays[f"{last}/alive"]
    factor = arrays.get("in/bg_factor", np.float32(1))
    count = len(meta["texts"])
    groups = [cams] if "out/crf_q" in arrays else [cam[None] for cam in cams]
    masks = []
    for group in groups:
        probs = crf.cam_probabilities(group, bg_factor=factor)
        q = crf.dense_crf(image, probs, config=REFERENCE, backend="host")
        if "out/crf_q" in arrays:
            # Stored in float16, whose spacing below 1 is 5e-4.
            assert_marginals(q, arrays["out/crf_q"], typical=8e-4)
        labels = crf.label_map(q)
        masks.extend(crf.label_masks(labels, len(group), one_hot_truncation=True))
    got = np.zeros((count, *image.shape[:2]), bool)
    for place, mask in zip(alive, masks, strict=False):
        got[place] = mask
    assert_labels(got, golden.unpack(arrays["out/final_masks"], got.shape))


@pytest.mark.parametrize("path", TRACES)
def test_car_golden_crf_dead_labels_in_traces(path):
    """Maps of texts that died, left in the stack with alive=False, change nothing."""
    arrays, meta = golden.load(path)
    if "out/crf_q" not in arrays:
        pytest.skip("sentences run alone")
    last = f"out/step{int(arrays['out/num_steps']) - 1}"
    index = arrays[f"{last}/alive"]
    cams = np.random.default_rng(0).random((len(meta["texts"]), *arrays["in/image"].shape[:2]))
    cams = cams.astype(np.float32)
    cams[index] = arrays[f"{last}/masks"]
    alive = np.isin(np.arange(len(cams)), index)
    probs = crf.cam_probabilities(cams, bg_factor=arrays["in/bg_factor"], alive=alive)
    got = crf.dense_crf(arrays["in/image"], probs, alive, config=REFERENCE, backend="device")
    got = np.asarray(got)
    assert_marginals(got[np.append(0, 1 + index)], arrays["out/crf_q"], typical=8e-4)
    assert not got[1:][~alive].any()

"""CaR golden: pixels that enter the two towers (resize, crop, normalise)."""

import numpy as np
import pytest
from PIL import Image

from openseg_jax.ops import resize, resize_uint8
from tests import golden

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
TOLERANCE = 3e-7 / STD.min()  # 3e-7 of the [0, 1] range, after the division by std
CAM = [p for p in golden.cases("car", "cam") if "out/pixels" in golden.load(p)[0]]
CLASSIFIER = [p for p in golden.cases("car", "classifier") if "out/pixels" in golden.load(p)[0]]


def normalise(image: np.ndarray) -> np.ndarray:
    return (np.asarray(image, np.float32) / np.float32(255) - MEAN) / STD


def channels_last(pixels: np.ndarray) -> np.ndarray:
    return np.moveaxis(pixels, -3, -1)


@pytest.mark.parametrize("path", CAM, ids=lambda p: p.stem)
def test_car_golden_cam_pixels(path):
    arrays, _ = golden.load(path)
    want = channels_last(arrays["out/pixels"])[0]
    image, size = arrays["in/image"], want.shape[:2]
    host = resize_uint8.resize_on_host(image, size)
    np.testing.assert_allclose(normalise(host), want, atol=TOLERANCE)
    device = resize_uint8.resize_bytes(image, resize_uint8.byte_pair(image.shape[:2], size))
    np.testing.assert_array_equal(device, host)


@pytest.mark.parametrize("path", CLASSIFIER, ids=lambda p: p.stem)
def test_car_golden_classifier_pixels(path):
    arrays, _ = golden.load(path)
    prompted, want = arrays["in/prompted"], channels_last(arrays["out/pixels"])
    side = want.shape[1]
    pair = resize_uint8.clip_pair(prompted.shape[1:3], side)
    device = np.asarray(resize_uint8.resize_bytes(prompted, pair))
    np.testing.assert_allclose(normalise(device), want, atol=TOLERANCE)
    whole = resize.short_side_size(prompted.shape[1:3], side)
    host = np.stack([resize_uint8.resize_on_host(p, whole) for p in prompted])
    host = host[:, resize.crop_rows(whole[0], side), resize.crop_rows(whole[1], side)]
    np.testing.assert_array_equal(device, host)


def test_car_golden_pixels_can_fail():
    for path in CAM:
        arrays, _ = golden.load(path)
        want = channels_last(arrays["out/pixels"])[0]
        image = Image.fromarray(arrays["in/image"])
        linear = image.resize(want.shape[1::-1], Image.Resampling.BILINEAR)
        assert np.abs(normalise(np.asarray(linear)) - want).max() > 0.01
    for path in CLASSIFIER:
        arrays, _ = golden.load(path)
        prompted, want = arrays["in/prompted"], channels_last(arrays["out/pixels"])
        side = want.shape[1]
        squeezed = resize_uint8.byte_pair(prompted.shape[1:3], (side, side))
        got = normalise(np.asarray(resize_uint8.resize_bytes(prompted, squeezed)))
        assert np.abs(got - want).max() > 0.1


@pytest.mark.parametrize("path", CAM, ids=lambda p: p.stem)
def test_car_golden_full_size_maps(path):
    arrays, _ = golden.load(path)
    if "out/cam_refined_lowres" not in arrays:
        pytest.skip("the case holds no low-resolution maps")
    small, want = arrays["out/cam_refined_lowres"], arrays["out/cam_final"]
    low, high = small.min(axis=(1, 2), keepdims=True), small.max(axis=(1, 2), keepdims=True)
    small = (small - low) / (np.float32(1e-15) + (high - low))
    got = np.asarray(resize.resize(small, want.shape[1:]))
    np.testing.assert_allclose(got, want, atol=2e-6)
    if small.any():
        wrong = np.asarray(resize.resize(small, want.shape[1:], convention="align_corners"))
        assert np.abs(wrong - want).max() > 0.01

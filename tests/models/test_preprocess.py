import dataclasses

import numpy as np
import pytest
from PIL import Image

from openseg_jax.models.preprocess import fit_image
from openseg_jax.models.variants import Preprocess

CLIP_RULE = Preprocess(16)
SIGLIP_RULE = Preprocess(16, resize="squash", interpolation="bilinear", antialias=False)


def _picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def _openai(image, side):
    """torchvision's Resize(side, BICUBIC) and CenterCrop(side), as OpenAI's `_transform` has it."""
    picture = Image.fromarray(image)
    width, height = picture.size
    if width <= height:
        size = (side, int(side * height / width))
    else:
        size = (int(side * width / height), side)
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (round((n - side) / 2.0) for n in picture.size)
    return np.asarray(picture.crop((left, top, left + side, top + side)))


@pytest.mark.parametrize("size", [(33, 40), (40, 33), (16, 16), (9, 21), (25, 25)])
def test_clip_pictures_equal_openais(size):
    image = _picture(*size)
    np.testing.assert_array_equal(fit_image(image, CLIP_RULE), _openai(image, 16))


def test_the_rule_decides():
    image = _picture(33, 40)
    plain = fit_image(image, CLIP_RULE)
    for wrong in ({"resize": "squash"}, {"interpolation": "bilinear"}, {"antialias": False}):
        other = fit_image(image, dataclasses.replace(CLIP_RULE, **wrong))
        assert other.shape == plain.shape and other.dtype == np.uint8
        assert not np.array_equal(other, plain)


def test_siglip_squashes_without_antialias():
    image = _picture(32, 48)
    # Twice and three times as large: half-pixel samples fall between two pixels, and on one.
    want = image.reshape(16, 2, 48, 3).astype(float).mean(axis=1)[:, 1::3]
    got = fit_image(image, SIGLIP_RULE)
    np.testing.assert_allclose(got, want, atol=0.5)

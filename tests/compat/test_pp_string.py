"""big_vision's strings on arrays: names, defaults and numbers as there."""

import io

import numpy as np
import pytest
from PIL import Image

from openseg_jax.compat.pp_string import OPS, from_bv_string
from openseg_jax.errors import UserError

IMAGE = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)


def run(text, data=None, seed=None):
    rng = None if seed is None else np.random.default_rng(seed)
    return from_bv_string(text)({"image": IMAGE} if data is None else data, rng)


def test_the_usual_string():
    out = run('resize(24)|value_range(-1, 1)|keep("image")', {"image": IMAGE, "label": 3})
    assert set(out) == {"image"}
    image = out["image"]
    assert image.shape == (24, 24, 3) and image.dtype == np.float32
    assert -1 <= image.min() < image.max() <= 1
    # Whole grey levels before scaling: 127.5 steps to one.
    levels = (image + 1) * 127.5
    np.testing.assert_allclose(levels, levels.round(), atol=1e-4)


def test_encoded_pictures_keys_and_quotes():
    file = io.BytesIO()
    Image.fromarray(IMAGE).save(file, "PNG")
    data = {"raw": file.getvalue(), "a|b": 1}
    out = run('decode(key="raw")|copy("raw", "image")|drop("a|b")|resize((5, 7), key="raw")', data)
    np.testing.assert_array_equal(out["image"], IMAGE)
    assert out["raw"].shape == (5, 7, 3) and "a|b" not in out
    assert data["raw"] == file.getvalue(), "what is given stays as it is"
    out = run('value_range(0, 1, inkey="image", outkey="scaled")')
    assert out["image"] is IMAGE and out["scaled"].max() <= 1


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("resize_small(20)", (20, 29, 3)),
        ("resize_long(20)", (14, 20, 3)),
        ("resize([8, 9], method='area')", (8, 9, 3)),
        ("central_crop", (37, 37, 3)),
        ("central_crop(11)", (11, 11, 3)),
        ("random_crop((10, 12))", (10, 12, 3)),
        ("inception_crop(16, area_min=50)", (16, 16, 3)),
        ("pad_to_shape((40, None, 3), where='both')", (40, 53, 3)),
        ("flip_lr|vgg_value_range", (37, 53, 3)),
        ("clip_value_range", (37, 53, 3)),
        ("", (37, 53, 3)),
    ],
)
def test_shapes(text, shape):
    assert run(text, seed=1)["image"].shape == shape
    np.testing.assert_array_equal(run(text, seed=1)["image"], run(text, seed=1)["image"])


def test_padding_goes_where_it_is_told():
    data = {"image": np.ones((2, 3), np.int32)}
    for where, first in (("after", 1), ("before", 7), ("both", 7)):
        out = run(f"pad_to_shape((4, 3), 7, where='{where}')", data)["image"]
        assert out[0, 0] == first and (out == 7).sum() == 6


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("resize(64)|value_rnage(-1,1)", "did you mean 'value_range'.*known: .*decode"),
        ("tokenize(64)", "known: .*resize"),
        ("resize(", "name or name.literals."),
        ("resize(__import__('os'))", "name or name.literals."),
        ("a.b(1)", "name or name.literals."),
        ("resize()", "wrong arguments"),
        ("resize(8, colour=1)", "wrong arguments"),
        ("resize('x')", "size: expected"),
        ("resize(8, method='lanczos')", "unknown name 'lanczos'"),
        ("resize(8, key='depth')", "depth: no such key"),
        ("flip_lr", "rng: expected a generator"),
        ("central_crop(400)", "crop_size: expected at most"),
        ("pad_to_shape((3, 3, 3))", "crop first"),
        ("pad_to_shape((3,), where='left')", "where"),
        ("decode", "decode: expected a picture's bytes"),
        (3, "string: expected"),
    ],
)
def test_mistakes_are_named(text, match):
    with pytest.raises(UserError, match=match):
        run(text)


def test_a_dozen_operations_are_there():
    assert len(OPS) >= 12

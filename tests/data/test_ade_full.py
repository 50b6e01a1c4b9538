"""ADE20K's colours, and the size at which A-847 is evaluated."""

import numpy as np
import pytest
from openseg_jax.data.prepare import ade_full
from PIL import Image

from openseg_jax.errors import UserError


def colours_of(numbers, rng):
    """ADE20K's encoding, the other way round: B and the last digit of R are the annotator's."""
    red = numbers // 256 * 10 + rng.integers(0, 5, numbers.shape)
    blue = rng.integers(0, 256, numbers.shape)
    return np.stack([red, numbers % 256, blue], axis=-1).astype(np.uint8)


def test_numbers_come_back():
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, ade_full.OBJECTS + 1, (70, 90))
    numbers.flat[:4] = 0, 255, 256, ade_full.OBJECTS
    np.testing.assert_array_equal(ade_full.class_numbers(colours_of(numbers, rng)), numbers)


def test_other_colours_are_refused():
    with pytest.raises(UserError, match="class numbers up to 3688"):
        ade_full.class_numbers(np.full((2, 2, 3), 255, np.uint8))


def test_reading_names_the_file(tmp_path):
    path = tmp_path / "ADE_val_00000001_seg.png"
    with pytest.raises(UserError, match="ADE_val_00000001_seg"):
        ade_full.read_colours(path)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    with pytest.raises(UserError, match="in colours"):
        ade_full.read_colours(path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(UserError, match="cannot be read as a picture"):
        ade_full.read_colours(path)


@pytest.mark.parametrize(
    ("size", "want"),
    [
        ((512, 683), (512, 683)),
        ((300, 2000), (300, 2000)),
        ((513, 513), (512, 512)),
        ((1000, 1500), (512, 768)),
        ((1500, 1000), (768, 512)),
        ((1024, 1025), (512, 512)),  # 512.5 goes to the even number
        ((1024, 1027), (512, 514)),  # and so does 513.5
    ],
)
def test_sizes(size, want):
    assert ade_full.small_size(size) == want


def test_a_small_picture_stays_as_it_is():
    image, labels = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), np.int32)
    small = ade_full.shrink(image, labels)
    assert small[0] is image and small[1] is labels


def test_labels_take_the_pixel_at_the_floor():
    rng = np.random.default_rng(1)
    for size in ((600, 1000), (1333, 777), (1024, 1024)):
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        labels = rng.integers(0, 900, size).astype(np.int32)
        small, few = ade_full.shrink(image, labels)
        height, width = ade_full.small_size(size)
        assert small.shape == (height, width, 3) and few.shape == (height, width)
        for y, x in rng.integers(0, (height, width), (200, 2)):
            assert few[y, x] == labels[y * size[0] // height, x * size[1] // width]


def test_pictures_are_interpolated_between_the_four_nearest():
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (640, 900, 3), np.uint8)
    small, _ = ade_full.shrink(image, np.zeros((640, 900), np.int32))
    height, width = small.shape[:2]
    ys = (np.arange(height) + 0.5) * 640 / height - 0.5
    xs = (np.arange(width) + 0.5) * 900 / width - 0.5
    y, x = np.floor(ys).astype(int), np.floor(xs).astype(int)
    fy, fx = (ys - y)[:, None, None], (xs - x)[None, :, None]

    def at(rows, columns):
        rows, columns = np.clip(rows, 0, 639), np.clip(columns, 0, 899)
        return image[rows][:, columns].astype(np.float64)

    want = (at(y, x) * (1 - fx) + at(y, x + 1) * fx) * (1 - fy)
    want += (at(y + 1, x) * (1 - fx) + at(y + 1, x + 1) * fx) * fy
    # OpenCV's weights have 11 bits: half a step of rounding and 255/2048 of weights.
    assert np.abs(small - want).max() < 0.5 + 4 * 255 / 2048

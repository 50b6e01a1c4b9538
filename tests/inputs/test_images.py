"""Every kind of picture that people have, and every way in which a file can be wrong."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from openseg_jax.errors import UserError
from openseg_jax.inputs import images


def sample(height=24, width=32):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1).astype(np.uint8)


def save(tmp_path, picture, name, **kwargs):
    path = tmp_path / name
    picture.save(path, **kwargs)
    return path


def test_png_is_read_exactly(tmp_path):
    rgb = sample()
    got = images.read_image(save(tmp_path, Image.fromarray(rgb), "a.png"))
    np.testing.assert_array_equal(got, rgb)
    assert got.dtype == np.uint8 and got.flags.writeable


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.gif", "a.bmp", "a.tif", "a.ppm"])
def test_formats(tmp_path, name):
    rgb = sample()
    got = images.read_image(save(tmp_path, Image.fromarray(rgb), name))
    assert got.shape == rgb.shape
    assert np.abs(got.astype(int) - rgb).mean() < 12


def test_animation_gives_its_first_frame(tmp_path):
    first, second = Image.new("RGB", (8, 8), (250, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 250))
    path = save(tmp_path, first, "a.gif", save_all=True, append_images=[second])
    assert images.read_image(path)[0, 0].tolist() == [250, 0, 0]


def test_exif_rotation_is_applied(tmp_path):
    rgb = np.zeros((10, 20, 3), np.uint8)
    rgb[:, :10, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path, Image.fromarray(rgb), "a.jpg", exif=exif, quality=95)
    got = images.read_image(path)
    assert got.shape == (20, 10, 3)
    assert got[2, 5, 0] > 200 > 60 > got[17, 5, 0]


def test_sixteen_bit_grey_uses_the_full_range(tmp_path):
    grey = np.array([[0, 257 * 100, 65535]], np.uint16)
    got = images.read_image(save(tmp_path, Image.fromarray(grey), "a.png"))
    assert got[0, :, 0].tolist() == [0, 100, 255]
    assert (got == got[..., :1]).all()


def png(width, height, depth, colour, rows):
    """Builds a PNG that Pillow cannot write itself."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )  # fmt: skip


def test_sixteen_bit_colour(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(2, 1, 16, 2, b"\0" + struct.pack(">6H", 65535, 0, 32896, 0, 65535, 0)))
    assert images.read_image(path)[0].tolist() == [[255, 0, 128], [0, 255, 0]]


@pytest.mark.parametrize(
    ("values", "want"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 51.0, 255.0]], np.float32), [0, 51, 255]),
        (np.array([[-10.0, 0.0, np.nan]], np.float32), [0, 255, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[0, 50, 200]], np.int32), [0, 50, 200]),
        (np.array([[-100000, 0, 100000]], np.int32), [0, 128, 255]),
    ],
)
def test_deep_tiff(tmp_path, values, want):
    got = images.read_image(save(tmp_path, Image.fromarray(values), "a.tif"))
    assert got[0, :, 0].tolist() == want


def test_cmyk(tmp_path):
    cmyk = np.zeros((8, 8, 4), np.uint8)
    cmyk[:, 4:, 3] = 255
    got = images.read_image(save(tmp_path, Image.fromarray(cmyk, "CMYK"), "a.tif"))
    assert got[0, 0].min() > 250 and got[0, 7].max() < 45
    jpeg = images.read_image(save(tmp_path, Image.fromarray(cmyk, "CMYK"), "a.jpg"))
    assert jpeg[0, 0].min() > 240 and jpeg[0, 7].max() < 60


def test_cmyk_with_a_broken_profile(tmp_path):
    cmyk = Image.new("CMYK", (4, 4), (0, 0, 0, 0))
    path = save(tmp_path, cmyk, "a.tif", icc_profile=b"no profile")
    assert images.read_image(path).min() > 250


@pytest.mark.parametrize("mode", ["L", "1", "YCbCr", "LAB", "HSV", "P"])
def test_opaque_modes(tmp_path, mode):
    name = "a.png" if mode in "L1P" else "a.tif"
    picture = Image.fromarray(sample()).convert("RGB")
    picture = (
        picture.convert(mode) if mode != "LAB" else Image.new("LAB", (32, 24), (128, 128, 128))
    )
    if mode in ("HSV", "YCbCr"):
        # No file format that all versions of Pillow write and read back holds these.
        return np.testing.assert_array_equal(
            images._to_rgb(picture), np.array(picture.convert("RGB"))
        )
    assert images.read_image(save(tmp_path, picture, name)).shape == (24, 32, 3)


def test_alpha_is_composited_on_white(tmp_path):
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)
    got = images.read_image(save(tmp_path, Image.fromarray(rgba), "a.png"))
    assert got[0, 0].tolist() == [255, 0, 0] and got[0, 1].tolist() == [255, 255, 255]
    assert got[0, 2].tolist() == [127, 127, 127]
    grey = np.array([[[0, 255], [0, 0]]], np.uint8)
    got = images.read_image(save(tmp_path, Image.fromarray(grey, "LA"), "b.png"))
    assert got[0, :, 0].tolist() == [0, 255]


def test_palette_with_transparency(tmp_path):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    picture.putpalette([10, 20, 30, 200, 0, 0])
    got = images.read_image(save(tmp_path, picture, "a.png", transparency=0))
    assert got[0].tolist() == [[255, 255, 255], [200, 0, 0]]


def test_one_pixel(tmp_path):
    got = images.read_image(save(tmp_path, Image.new("RGB", (1, 1), (1, 2, 3)), "a.png"))
    assert got.tolist() == [[[1, 2, 3]]]


@pytest.mark.slow
def test_camera_size_is_resized_by_rule_and_brought_back(tmp_path):
    path = save(tmp_path, Image.new("RGB", (5472, 3648), (90, 120, 30)), "a.jpg")
    image = images.read_image(path)
    assert image.shape == (3648, 5472, 3)
    small = images.fit_long_side(image, 1024)
    assert small.shape == (683, 1024, 3)
    labels = np.zeros(small.shape[:2], np.int32)
    labels[:, 512:] = 4
    back = images.restore_labels(labels, image.shape[:2])
    assert back.shape == (3648, 5472)
    assert (back[:, :2736] == 0).all() and (back[:, 2736:] == 4).all()


def test_fit_leaves_small_pictures_alone_and_keeps_a_pixel():
    rgb = sample()
    assert images.fit_long_side(rgb, 32) is rgb
    assert images.fit_long_side(np.zeros((3, 9000, 3), np.uint8), 100).shape == (1, 100, 3)


def test_restore_is_smooth_and_keeps_ids():
    labels = np.array([[7, 0], [0, 9]])
    back = images.restore_labels(labels, (20, 20))
    assert set(np.unique(back)) == {0, 7, 9}
    assert back[0, 0] == 7 and back[-1, -1] == 9 and back[0, -1] == 0
    assert images.restore_labels(labels, (2, 2)) is labels


def test_missing_file_offers_the_closest_name(tmp_path):
    save(tmp_path, Image.new("RGB", (2, 2)), "zebra.png")
    with pytest.raises(UserError, match=r"no such file; did you mean .*zebra\.png"):
        images.read_image(tmp_path / "zebr.png")
    with pytest.raises(UserError, match="there is no folder"):
        images.read_image(tmp_path / "nowhere" / "a.png")


def test_folder_empty_and_text(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        images.read_image(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(UserError, match="the file is empty"):
        images.read_image(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(UserError, match="not a picture in a format"):
        images.read_image(tmp_path / "text.png")
    with pytest.raises(UserError, match="cannot be read"):
        images.read_image(str(tmp_path / "a\0b.png"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_truncated_files(tmp_path, kind, share):
    data = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(data, kind)
    path = tmp_path / "cut"
    path.write_bytes(data.getvalue()[: int(len(data.getvalue()) * share)])
    with pytest.raises(UserError, match=r"cut: .*(damaged or cut short|not a picture)"):
        images.read_image(path)


def test_no_rights(tmp_path):
    path = save(tmp_path, Image.new("RGB", (2, 2)), "a.png")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this account reads every file")
    with pytest.raises(UserError, match="cannot be read"):
        images.read_image(path)


def test_bombs_are_refused_before_decoding(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(30000, 30000, 8, 2, b""))
    with pytest.raises(UserError, match="at most 100 million pixels"):
        images.read_image(path)
    path.write_bytes(png(11000, 10000, 8, 2, b""))
    with pytest.raises(UserError, match="11000x10000 = 110 million"):
        images.read_image(path)
    small = save(tmp_path, Image.new("RGB", (20, 20)), "a.png")
    with pytest.raises(UserError, match=r"at most 0\.0001 million"):
        images.read_image(small, max_pixels=100)

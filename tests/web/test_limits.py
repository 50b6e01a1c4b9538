"""What visitors may send: labels, backgrounds, pictures; every bound, one past it."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from openseg_jax.errors import UserError
from openseg_jax.web.examples import example, examples
from openseg_jax.web.limits import (
    FORMATS,
    Limits,
    background_of,
    labels_of,
    picture_of,
    shown,
)

SMALL = Limits(upload_mb=0.1, megapixels=0.05, labels=4, label_chars=10, text_chars=60)


def bomb(width=30_000, height=30_000):
    """A PNG of a few hundred bytes that says it has 900 million pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_labels_are_read_as_the_command_line_reads_them():
    assert labels_of('"person,people", grass\nGrass, sky', Limits()) == (
        ["person,people", "grass", "sky"], ["Grass"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "write at least one"),
        (" , ,\n", "write at least one"),
        ("a, b, c, d, e", "at most 4, got 5"),
        ("x" * 11, "at most 10 characters each, got 11"),
        ("a," * 31, "at most 60 characters, got 62"),
        ('a, "b', "never closed"),
        (None, "expected text"),
    ],
)
def test_labels_beyond_the_limits(text, words):
    with pytest.raises(UserError, match=words):
        labels_of(text, SMALL)


def test_ten_thousand_labels_are_refused_in_one_short_line():
    text = ", ".join(f"n{i}" for i in range(10_000))
    with pytest.raises(UserError, match=r"labels: expected at most .* got") as caught:
        labels_of(text, Limits(text_chars=10**6))
    assert "10,000" in str(caught.value) and len(str(caught.value)) < 200
    with pytest.raises(UserError, match="characters"):
        labels_of(text, Limits())


def test_backgrounds():
    assert background_of("default", "ignored", SMALL) is None
    assert background_of("none", "ignored", SMALL) == []
    assert background_of("own texts", "sky, Sky, sea", SMALL) == ["sky", "sea"]
    with pytest.raises(UserError, match="at least one text"):
        background_of("own texts", " ", SMALL)
    with pytest.raises(UserError, match="did you mean 'none'"):
        background_of("nome", "", SMALL)


def test_pictures(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (40, 30), (9, 8, 7)).save(path)
    image = picture_of(path, "a.png", SMALL)
    assert image.shape == (30, 40, 3) and (image == (9, 8, 7)).all()
    path.write_text("no picture")
    with pytest.raises(UserError, match=r"holiday\.png: not a picture"):
        picture_of(path, "holiday.png", SMALL)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(UserError, match="damaged or cut short"):
        picture_of(path, "a.png", SMALL)
    path.write_bytes(bytes(100_001))
    with pytest.raises(UserError, match=r"at most 0\.1 MB"):
        picture_of(path, "a.png", SMALL)
    with pytest.raises(UserError, match="no longer here"):
        picture_of(tmp_path / "none.png", "none.png", SMALL)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb())
    assert path.stat().st_size < 1000

    def decoded(*args, **kwargs):
        raise AssertionError("the picture was decoded")

    monkeypatch.setattr(Image.Image, "load", decoded)
    with pytest.raises(UserError, match=r"million pixels, got .*; shrink"):
        picture_of(path, "bomb.png", Limits())
    path.write_bytes(bomb(9000, 9000))  # below what Pillow itself warns of
    with pytest.raises(UserError, match="at most 25 million pixels, got 9000x9000"):
        picture_of(path, "bomb.png", Limits())


def icon(side):
    """An icon that says 16×16, and holds a PNG of `side` pixels a side."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (9, 8, 7)).save(file, "PNG")
    png = file.getvalue()
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 24, len(png), 22) + png


@pytest.mark.filterwarnings("ignore:Image was not the expected size")
def test_formats_that_decode_before_they_tell_their_size_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.ico"
    path.write_bytes(icon(400))
    assert Image.open(path).size == (400, 400)  # decoded by now

    def decoded(*args, **kwargs):
        raise AssertionError("the picture was decoded")

    monkeypatch.setattr(Image.Image, "load", decoded)
    with pytest.raises(UserError, match=r"a\.ico: not a picture in a format that is taken here"):
        picture_of(path, "a.ico", SMALL)


def test_formats_that_start_another_program_are_refused(tmp_path):
    path = tmp_path / "a.eps"
    Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(UserError, match=r"a\.eps: not a picture in a format that is taken here"):
        picture_of(path, "a.eps", SMALL)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_usual_formats_are_taken(tmp_path, kind):
    Image.init()
    if kind not in Image.SAVE or (kind == "AVIF" and not features.check("avif")):
        pytest.skip(f"this Pillow does not write {kind}")
    path = tmp_path / "picture"
    Image.new("RGB", (24, 16), (200, 30, 30)).save(path, kind)
    image = picture_of(path, "picture", SMALL)
    assert image.shape == (16, 24, 3) and image[8, 12, 0] > 150 > image[8, 12, 1]


def test_names_of_files_make_one_short_line():
    assert shown("a\n\x1b[31m\u202eb" + "x" * 99).count("\n") == 0
    assert len(shown("x" * 999)) == 60 and shown("ok.png") == "ok.png"


@pytest.mark.parametrize("name", ["upload_mb", "megapixels", "labels", "max_side"])
def test_limits_are_positive(name):
    flag = "--max-" + name.removeprefix("max_").replace("_", "-")
    with pytest.raises(UserError, match=f"{flag}: expected more than 0"):
        Limits(**{name: 0})


def test_examples_are_scenes_with_true_and_other_labels():
    assert len(examples()) == 6
    for i, found in enumerate(examples()):
        assert found is example(i) and found.image.shape == (96, 96, 3)
        assert len(set(found.labels)) == len(found.labels) >= 5 and found.caption


@pytest.mark.parametrize("index", [-1, 6, None, True, "0", 1.0, {"path": "/etc/passwd"}])
def test_example_numbers_of_visitors_are_checked(index):
    with pytest.raises(UserError, match="number below 6"):
        example(index)

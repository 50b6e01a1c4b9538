"""The HTML page: self-contained, escaped, whole."""

import base64
import re

import numpy as np
import pytest
from PIL import Image

from openseg_jax import report
from openseg_jax.errors import UserError


def test_page_is_self_contained_and_escaped(tmp_path):
    parts = [
        report.heading("a < b"),
        report.paragraph("<script>"),
        report.table(("name", "mIoU"), [("x & y", 12.3456), ("z", 1.0)]),
        report.gallery([report.figure(np.full((3, 4, 3), 7, np.uint8), 'a "cat"')]),
        report.steps([(["zebra"], ["<b>"]), (["zebra"], [])]),
    ]
    path = report.write_page(tmp_path / "o" / "r.html", "T & U", parts, footer="made by us")
    text = path.read_text(encoding="utf-8")
    assert "<script>" not in text and "&lt;script&gt;" in text and "T &amp; U" in text
    assert "12.35" in text and "nothing dropped" in text and "prefers-color-scheme: dark" in text
    assert not re.search(r'(src|href)="(?!data:)', text)
    (code,) = re.findall(r"base64,([^\"]+)", text)
    (tmp_path / "a.png").write_bytes(base64.b64decode(code))
    assert np.asarray(Image.open(tmp_path / "a.png")).shape == (3, 4, 3)


def test_a_page_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        report.write_page(tmp_path / "file" / "r.html", "t", [])

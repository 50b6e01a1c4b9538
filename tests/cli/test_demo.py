"""`openseg demo`: one page, honest words, no half results."""

import numpy as np
import pytest

from openseg_jax.cli import demo
from openseg_jax.cli.main import main


def test_mistakes_write_nothing(tmp_path, capsys):
    out = tmp_path / "o"
    assert main(["demo", "--images", "0", "--out", str(out)]) == 2
    assert "--images: expected at least 1" in capsys.readouterr().err
    assert main(["demo", "--model", str(tmp_path / "none"), "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not out.exists()


def test_the_bundled_photographs_are_there():
    # They come with scikit-image; a version without them only shortens the report.
    assert all(path.is_file() for path, _ in demo._bundled())


@pytest.mark.slow
def test_a_whole_report(tmp_path, world_model, monkeypatch, capsys):
    monkeypatch.setattr(demo, "_VALIDATION", 1)
    photograph = tmp_path / "photo.png"
    from PIL import Image

    Image.fromarray(np.full((24, 24, 3), 90, np.uint8)).save(photograph)
    monkeypatch.setattr(demo, "_bundled", lambda: [(photograph, "a grey wall")])
    words = ["demo", "--images", "1", "--model", str(world_model), "--out", str(tmp_path / "o")]
    assert main(words) == 0
    text = (tmp_path / "o" / "report.html").read_text(encoding="utf-8")
    assert "knows only its own world" in text and "a grey wall" in text and "mIoU" in text
    assert text.count("<figure>") == 4 + 1
    assert "CaR, with recurrence" in capsys.readouterr().out

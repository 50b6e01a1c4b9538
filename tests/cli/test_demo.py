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
    assert main(["demo", "--refine", "crv", "--out", str(out)]) == 2
    assert "invalid choice" in capsys.readouterr().err
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
    assert main([*words, "--refine", "none"]) == 0
    text = (tmp_path / "o" / "report.html").read_text(encoding="utf-8")
    assert "knows only its own world" in text and "a grey wall" in text and "mIoU" in text
    assert text.count("<figure>") == 4 + 1
    assert "CaR, with recurrence" in capsys.readouterr().out


def test_weights_without_other_methods_get_no_section(world_model):
    from openseg_jax.cli import demo_methods
    from openseg_jax.weights.load import load_clip

    assert demo_methods.columns(load_clip(str(world_model)), []) == []
    assert list(demo_methods.section([], [])) == []


@pytest.mark.slow
def test_weights_with_a_tuned_tower_show_it_beside_the_frozen_one(world_model):
    import dataclasses

    from openseg_jax.cli import demo_methods
    from openseg_jax.miniature.streams import scene
    from openseg_jax.weights.load import load_clip

    clip = load_clip(str(world_model))
    moved = {**clip.params["visual"]}
    moved["proj"] = {"kernel": -np.asarray(moved["proj"]["kernel"])}
    clip = dataclasses.replace(clip, extras={"maft": {"visual": moved}})
    truths = [scene("test", i, 48) for i in range(2)]
    found = demo_methods.columns(clip, truths)
    assert [c.title for c in found] == ["MAFT", "MAFT, frozen tower"]
    assert all(label.shape == (48, 48) for c in found for label in c.labels)
    # The two towers answer the opposite, so the maps cannot be the same.
    assert any((a != b).any() for a, b in zip(found[0].labels, found[1].labels, strict=True))
    text = "".join(demo_methods.section(found, truths))
    assert text.count("<figure>") == 2 * 3 and "MAFT, frozen tower" in text

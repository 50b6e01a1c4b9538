"""`openseg segment`: files, table, JSON, batches, names, labels; and every kind of bad input."""

import json

import numpy as np
import pytest
from PIL import Image

from openseg_jax import api, viz
from openseg_jax.cli import segment
from openseg_jax.cli.main import Parser, main
from openseg_jax.errors import UserError
from openseg_jax.methods import rounds
from openseg_jax.methods.car_config import configure
from openseg_jax.ops import rle
from tests.cli.fake import FakeSegmenter


@pytest.fixture
def fake(monkeypatch):
    segmenter = FakeSegmenter()
    monkeypatch.setattr(api, "load", lambda method, model, settings=(): segmenter)
    return segmenter


@pytest.fixture
def flag(tmp_path):
    """Left half red, right half green, 30x40."""
    rgb = np.zeros((30, 40, 3), np.uint8)
    rgb[:, :20, 0], rgb[:, 20:, 1] = 255, 255
    path = tmp_path / "in" / "flag.png"
    path.parent.mkdir()
    Image.fromarray(rgb).save(path)
    return path


def run(*words):
    return main(["segment", *map(str, words)])


def test_three_files_and_a_table(fake, flag, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(flag, "--labels", "blue, green, red", "--out", out) == 0
    labels, names = viz.read_labels(out / "flag.png")
    assert names == ["blue", "green", "red"]
    assert (labels[:, :20] == 3).all() and (labels[:, 20:] == 2).all()
    assert Image.open(out / "flag_overlay.png").size[0] >= 240
    data = json.loads((out / "flag.json").read_text())
    assert data["classes"] == {"0": "background", "1": "blue", "2": "green", "3": "red"}
    assert [m["label"] for m in data["masks"]] == ["green", "red"] and data["dropped"] == ["blue"]
    np.testing.assert_array_equal(rle.decode(data["masks"][1]["segmentation"]), labels == 3)
    assert data["masks"][0]["area"] == 600 and data["masks"][0]["area_share"] == 0.5
    made = data["provenance"]
    assert made["resize_rule"] == {"name": "resize_long_side", "long_side": 40}
    assert made["size"] == [30, 40] and made["openseg_jax"] and "cpu" in made["device"]
    table = capsys.readouterr().out
    assert "50.0 %" in table and "0.70" in table and "background" in table


def test_json_on_stdout(fake, flag, tmp_path, capsys):
    assert run(flag, "--labels", "red", "--out", tmp_path / "o", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["image"] == str(flag) and found["masks"][0]["label"] == "red"


def test_pictures_of_one_size_share_a_call(fake, flag, tmp_path):
    for i in range(3):
        Image.open(flag).save(tmp_path / f"{i}.png")
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "small.png")
    paths = [tmp_path / "0.png", tmp_path / "small.png", tmp_path / "1.png", tmp_path / "2.png"]
    assert run(*paths, "--labels", "red", "--out", tmp_path / "o") == 0
    assert len(fake.calls) == 2
    assert len(list((tmp_path / "o").iterdir())) == 12


def test_large_pictures_come_back_at_their_own_size(fake, tmp_path, capsys):
    path = tmp_path / "big.png"
    Image.new("RGB", (900, 300), (255, 0, 0)).save(path)
    assert run(path, "--labels", "red", "--out", tmp_path, "--max-side", 90, "-o", tmp_path) == 2
    out = tmp_path / "o"
    capsys.readouterr()
    assert run(path, "--labels", "red", "--out", out, "--max-side", 90) == 0
    assert "900x300 pixels were segmented at 90x30" in capsys.readouterr().err
    labels, _ = viz.read_labels(out / "big.png")
    assert labels.shape == (300, 900) and (labels == 1).all()


def test_background_words(fake, flag, tmp_path):
    def asked(*words):
        fake.calls.clear()
        assert run(flag, "--labels", "red, Green", "--out", tmp_path / "o", *words) == 0
        return fake.calls[0][1]

    assert asked() is None
    assert asked("--background", "none") == ()
    assert asked("--background", "sky, GREEN, wall") == ("sky", "wall")


def test_duplicates_are_merged_with_a_note(fake, flag, tmp_path, capsys):
    assert run(flag, "--labels", "red, RED, red", "--out", tmp_path / "o") == 0
    assert "duplicate labels were merged: RED, red" in capsys.readouterr().err
    assert fake.calls[0][0] == ("red",)


def test_labels_from_a_file_join_the_others(fake, flag, tmp_path):
    (tmp_path / "l.txt").write_text("blue\ngreen,lime\n")
    words = ("--labels", "red", "--labels-file", tmp_path / "l.txt", "--out", tmp_path / "o")
    assert run(flag, *words) == 0
    assert fake.calls[0][0] == ("red", "blue", "green,lime")


def test_five_thousand_labels_compete_in_rounds(fake, flag, tmp_path, capsys):
    names = [f"label {i}" for i in range(4998)]
    (tmp_path / "l.txt").write_text("\n".join([*names[:3000], "red", *names[3000:], "green"]))
    assert run(flag, "--labels-file", tmp_path / "l.txt", "--out", tmp_path / "o") == 0
    assert max(len(asked) for asked, _ in fake.calls) <= rounds.ROUND
    labels, found = viz.read_labels(tmp_path / "o" / "flag.png")
    assert len(found) == 5000
    assert set(np.unique(labels)) == {found.index("red") + 1, found.index("green") + 1}
    said = capsys.readouterr()
    assert "5000 labels compete in rounds of at most 256" in said.err
    assert "more, dropped" in said.out and len(said.out.splitlines()) < 70


def test_names_that_collide():
    def stems(*given):
        return [str(stem) for stem in segment.plan_outputs(given, segment.Path("o")).values()]

    assert stems("a/x.jpg", "b/y.jpg") == ["o/x", "o/y"]
    assert stems("a/x.jpg", "b/x.jpg") == ["o/a_x", "o/b_x"]
    assert stems("a/x.jpg", "a/x.png") == ["o/a_x", "o/a_x_2"]
    assert stems("x_overlay.jpg", "x.jpg") == ["o/x_overlay", "o/x_2"]
    assert stems("a/x.jpg", "a/x.jpg", "a/../a/x.jpg") == ["o/x"]


def test_results_never_replace_pictures(fake, flag, capsys):
    before = flag.read_bytes()
    assert run(flag, "--labels", "red", "--out", flag.parent) == 2
    assert "would be replaced by a result" in capsys.readouterr().err
    assert flag.read_bytes() == before and len(list(flag.parent.iterdir())) == 1


def damaged(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


BAD = {
    "missing picture": (lambda p: p.unlink(), ["--labels", "red"], "no such file"),
    "empty picture": (lambda p: p.write_bytes(b""), ["--labels", "red"], "the file is empty"),
    "text": (lambda p: p.write_text("hello"), ["--labels", "red"], "not a picture"),
    "cut picture": (damaged, ["--labels", "red"], "damaged or cut short"),
    "no labels": (None, [], "at least one label"),
    "blank labels": (None, ["--labels", " , "], "at least one label"),
    "open quote": (None, ["--labels", '"red'], "never closed"),
    "no label file": (None, ["--labels-file", "none.txt"], "cannot read the labels"),
    "max side": (None, ["--labels", "red", "--max-side", "0"], "max_side: expected at least 1"),
    "max side word": (None, ["--labels", "red", "--max-side", "x"], "invalid int value"),
    "option": (None, ["--lables", "red"], "did you mean --labels"),
    "refine": (None, ["--labels", "red", "--refine", "crv"], "invalid choice"),
    "sam of maft": (None, ["-l", "red", "--method", "maft", "--sam", "SAM-B"], "--method car"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(fake, flag, tmp_path, capsys, case):
    spoil, words, text = BAD[case]
    good = tmp_path / "good.png"
    Image.open(flag).save(good)
    if spoil:
        spoil(flag)
    assert run(good, flag, "--out", tmp_path / "o", *words) == 2
    said = capsys.readouterr()
    assert text in said.err and said.err.count("\n") == 1 and not said.out
    assert said.err.startswith("openseg: ")
    assert not (tmp_path / "o").exists()


def test_wrong_method_and_model_offer_the_closest(flag, tmp_path, capsys):
    assert run(flag, "--labels", "red", "--method", "carr", "--out", tmp_path / "o") == 2
    assert "did you mean 'car'?" in capsys.readouterr().err
    assert run(flag, "--labels", "red", "--model", "minature", "--out", tmp_path / "o") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "miniature" in said
    assert not (tmp_path / "o").exists()


def test_an_output_folder_that_cannot_be(fake, flag, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run(flag, "--labels", "red", "--out", tmp_path / "file") == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.slow
def test_real_weights_format_end_to_end(tiny_model, picture, tmp_path, capsys):
    long = " ".join(["zebra"] * 500)
    words = ("--model", tiny_model, "--refine", "none", "--background", "none")
    assert run(picture, "--labels", f"zebra, 🦓, {long}, dog", "-o", tmp_path / "o", *words) == 0
    said = capsys.readouterr()
    assert "has never seen these words: 🦓, dog; it knows only its own world: zebra, grass" in (
        said.err
    )
    assert "reads 12 tokens; only the beginning counts of: zebra zebra" in said.err
    data = json.loads((tmp_path / "o" / "photo.json").read_text())
    assert data["masks"] and data["classes"]["2"] == "🦓"
    (model,) = data["provenance"]["models"]
    assert model["saw"] == "nothing" and model["fingerprint"]
    assert data["provenance"]["settings"]["refine"] == "none"


def test_one_pixel_end_to_end(tiny_model, tmp_path):
    Image.new("RGB", (1, 1), (9, 9, 9)).save(tmp_path / "dot.png")
    assert (
        run(tmp_path / "dot.png", "-l", "zebra", "--model", tiny_model, "-o", tmp_path / "o") == 0
    )
    labels, _ = viz.read_labels(tmp_path / "o" / "dot.png")
    assert labels.shape == (1, 1)


def test_presets_and_flags_become_settings(capsys, flag, tmp_path):
    parser = Parser()
    segment.add_arguments(parser)

    def settings(*words):
        return segment.settings_of(parser.parse(["a.png", *words]))

    assert settings() == {}
    assert settings("--refine", "pamr", "--sam", "SAM-B", "--parity", "reference") == {
        "refine": "pamr",
        "sam": "SAM-B",
        "parity": "reference",
    }
    assert settings("--classifier-model", "ViT-L-14") == {"classifier": "ViT-L-14"}
    voc = settings("--preset", "voc", "--refine", "none")
    assert voc["confidence_threshold"] == 0.6 and voc["refine"] == "none"
    configure(**voc)
    assert run(flag, "--labels", "red", "--preset", "vocc", "--out", tmp_path / "o") == 2
    assert "did you mean 'voc'?" in capsys.readouterr().err


def test_a_wrong_setting_is_named(tiny_model, picture):
    with pytest.raises(UserError, match="did you mean 'crf_iterations'"):
        api.segment(picture, ["zebra"], model=str(tiny_model), crf_iteration=3)
    with pytest.raises(UserError, match="crf: is two settings, refine"):
        api.segment(picture, ["zebra"], model=str(tiny_model), crf="none")


def test_a_folder_as_proposals_is_a_mask2former(tmp_path):
    import argparse

    from openseg_jax.cli import segment

    parser = argparse.ArgumentParser()
    segment.add_arguments(parser)
    words = ["a.png", "--labels", "zebra", "--method", "maft", "--proposals"]
    found = segment.settings_of(parser.parse_args([*words, str(tmp_path)]))
    assert found["proposals"] == "mask2former"
    assert found["proposal_settings"] == (("folder", str(tmp_path)),)
    assert segment.settings_of(parser.parse_args([*words, "regions"])) == {"proposals": "regions"}

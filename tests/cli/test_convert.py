"""`openseg convert` to and from big_vision's npz files."""

import json
import struct

import numpy as np
import pytest

from openseg_jax.cli import convert
from openseg_jax.cli import main as cli
from openseg_jax.errors import UserError
from openseg_jax.weights.folder import save_folder
from openseg_jax.weights.load import load_clip
from tests.weights.tiny import (
    CLIP_MU,
    PREPROCESS,
    PROVENANCE,
    SIGLIP_MU,
    random_params,
    same,
    tokenizer,
)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "siglip"
    params = random_params(SIGLIP_MU)
    tok = tokenizer(SIGLIP_MU)
    save_folder(path, SIGLIP_MU, params, PREPROCESS, tok, PROVENANCE, {"labels": ["zebra"]})
    return path


@pytest.mark.parametrize("layout", [[], ["--layout", "scan"]])
def test_a_folder_goes_to_npz_and_back(folder, tmp_path, capsys, layout):
    path = tmp_path / "out" / "mu.npz"
    assert cli.main(["convert", str(folder), str(path), *layout]) == 0
    said = capsys.readouterr().out
    scan = "scan" in layout
    assert "proj.image_text.two_towers" in said and f"'scan': {scan}" in said
    with np.load(path, allow_pickle=False) as file:
        block = "encoderblock" if scan else "encoderblock_0"
        assert f"params/txt/Encoder_0/{block}/LayerNorm_0/scale" in file
    first, again = load_clip(folder), load_clip(path)
    assert same(first.params, again.params)
    assert again.preprocess == first.preprocess and again.defaults == first.defaults
    assert again.provenance == {**first.provenance, "name": "mu-siglip"}
    assert again.tokenizer.to_dict() == first.tokenizer.to_dict()
    assert cli.main(["convert", str(path), str(tmp_path / "back")]) == 0
    assert same(load_clip(tmp_path / "back").params, first.params)
    assert cli.main(["convert", str(folder), str(path), "--dtype", "bfloat16"]) == 0
    assert not same(load_clip(path).params, first.params)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["siglip", "out", "--layout", "scan"], "only for an npz file"),
        (["siglip", "x.npz", "--layout", "both"], "invalid choice: 'both'"),
        (["clip", "x.npz"], "cannot hold (LayerNorm before"),
        (["siglip", "text.npz"], "exists and is no model folder of ours"),
        (["siglip", "taken.npz"], "taken.about: exists and is not ours"),
        (["x.npz", "x.npz"], "source and target are the same"),
        (["nowhere.npz", "out"], "no such file"),
    ],
)
def test_bad_wishes_are_one_line_and_write_nothing(folder, tmp_path, capsys, words, match):
    from openseg_jax.weights.big_vision import save_npz

    tok = tokenizer()
    save_folder(tmp_path / "clip", CLIP_MU, random_params(CLIP_MU), PREPROCESS, tok, PROVENANCE)
    (tmp_path / "text.npz").write_text("mine")
    (tmp_path / "taken.about").mkdir()
    (tmp_path / "taken.about" / "diary.txt").write_text("mine")
    if words[0] == "x.npz":
        save_npz(tmp_path / "x.npz", random_params(SIGLIP_MU), SIGLIP_MU)
    before = sorted(tmp_path.rglob("*"))
    places = [str(tmp_path / word) for word in words[:2]]
    assert cli.main(["convert", *places, *words[2:]]) == 2
    said = capsys.readouterr().err
    assert match in said and said.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "text.npz").read_text() == "mine"


def test_an_npz_of_somebody_else_is_not_replaced(folder, tmp_path, capsys):
    path = tmp_path / "theirs.npz"
    np.savez(path, a=np.zeros(3))
    before = path.read_bytes()
    assert cli.main(["convert", str(folder), str(path)]) == 2
    assert "no theirs.about beside it says that it is ours" in capsys.readouterr().err
    assert path.read_bytes() == before and not (tmp_path / "theirs.about").exists()


def test_a_full_disk_leaves_nothing_beside(folder, tmp_path, capsys, monkeypatch):
    def full(path, *args, **how):
        raise UserError(f"{path}: the disk is full")

    monkeypatch.setattr(convert, "save_npz", full)
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["convert", str(folder), str(tmp_path / "x.npz")]) == 2
    assert "the disk is full" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_npz_is_named(folder, tmp_path, capsys):
    path = tmp_path / "x.npz"
    assert cli.main(["convert", str(folder), str(path)]) == 0
    with np.load(path) as file:
        arrays = dict(file)
    np.savez_compressed(path, **arrays)
    data = bytearray(path.read_bytes())
    # Behind the name in the first header begins what is packed; no packing begins like this.
    data[30 + sum(struct.unpack("<HH", data[26:30]))] = 0xFF
    path.write_bytes(data)
    capsys.readouterr()
    assert cli.main(["convert", str(path), str(tmp_path / "back")]) == 2
    said = capsys.readouterr().err
    assert "expected a complete npz file" in said and said.count("\n") == 1


def test_a_broken_about_is_named(folder, tmp_path, capsys):
    path = tmp_path / "mu.npz"
    assert cli.main(["convert", str(folder), str(path)]) == 0
    about = tmp_path / "mu.about" / "about.json"
    about.write_text(json.dumps({"tokenizer": 3}))
    assert cli.main(["convert", str(path), str(tmp_path / "back")]) == 2
    assert "about.json: expected a section 'tokenizer'" in capsys.readouterr().err

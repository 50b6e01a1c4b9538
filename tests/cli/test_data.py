"""`openseg data`: prepare, verify and list, with one line and exit code 2 for mistakes."""

import json

import numpy as np
import pytest
from openseg_jax.data.prepare import verify as verify_module
from PIL import Image

from openseg_jax.cli import main as cli
from openseg_jax.inputs import data_sets
from tests.data import label_archives
from tests.inputs.layouts import picture, save_labels


@pytest.fixture
def three(monkeypatch):
    """As if the data set had three pictures in all."""
    found = data_sets.DATA_SETS["ade"]
    assert found.counts == (2000,)
    monkeypatch.setattr(verify_module, "_counted", lambda *rest: [])


def openseg(capsys, *words):
    code = cli.main(["data", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_list_says_what_else_is_needed(tmp_path, capsys):
    label_archives.cityscapes(tmp_path)
    assert "needs" not in openseg(capsys, "list", "cityscapes", "--root", tmp_path)[1]
    (tmp_path / "gtFine_trainvaltest.zip").unlink()
    out = openseg(capsys, "list", "cityscapes", "--root", tmp_path)[1]
    assert "archives: leftImg8bit" in out and "needs" in out and "gtFine_trainvaltest.zip" in out


def test_prepare_verify_list(tmp_path, capsys, three):
    label_archives.ade(tmp_path)
    assert (
        "archives: ADEChallengeData2016.zip; run: openseg data prepare ade"
        in (openseg(capsys, "list", "ade", "--root", tmp_path)[1])
    )
    code, out, err = openseg(capsys, "prepare", "ade", "--root", tmp_path)
    assert code == 0 and "prepared/ade: 3 items in" in out and not err
    code, out, _ = openseg(capsys, "prepare", "ade", "--root", tmp_path)
    assert code == 0 and "prepared before" in out
    assert "prepared: 3 items" in openseg(capsys, "list", "ade", "--root", tmp_path)[1]
    code, out, _ = openseg(capsys, "verify", "ade", "--root", tmp_path)
    assert code == 0 and "all files are as they should be" in out and "published: 2000" in out
    code, out, _ = openseg(capsys, "verify", "ade", "--root", tmp_path, "--json", "--quick")
    report = json.loads(out)
    assert code == 0 and report["count"] == 3 and len(report["histogram"]) == 150


def test_list_names_everything(capsys, tmp_path):
    code, out, _ = openseg(capsys, "list")
    assert code == 0 and all(name in out for name in data_sets.DATA_SETS) and "licence" in out
    rows = json.loads(openseg(capsys, "list", "--json", "--root", tmp_path)[1])
    assert {row["name"] for row in rows} >= set(data_sets.DATA_SETS)
    assert all(row["state"].startswith("not here; needs ") for row in rows)


@pytest.mark.parametrize(
    "words, message",
    [
        (["prepair"], "openseg data: unknown name 'prepair'; did you mean 'prepare'"),
        (["prepare"], "which data set?"),
        (["prepare", "voc"], "--root: which folder?"),
        (["prepare", "vox", "--root", "."], "did you mean 'voc'"),
        (["prepare", "folder", "--root", "."], "unknown name 'folder'"),
        (["verify", "vox", "--root", "."], "did you mean 'voc'"),
        (["verify", "voc", "--root", "no such"], "expected a folder"),
        (["list", "vox"], "did you mean 'voc'"),
        (["list", "--root", "no such"], "no such: no such folder"),
        (["prepare", "voc", "--rot", "."], "did you mean --root?"),
    ],
)
def test_mistakes_are_one_line(words, message, capsys):
    code, _, err = openseg(capsys, *words)
    assert code == 2 and err.count("\n") == 1 and message in err


def spoil_labels(root):
    path = root / "prepared/ade/labels/ADE_val_00000002.png"
    path.write_bytes(path.read_bytes() + b" ")
    return "ADE_val_00000002.png: is not what was written; run openseg data prepare ade"


def spoil_missing(root):
    (root / "prepared/ade/labels/ADE_val_00000002.png").unlink()
    return "ADE_val_00000002.png: the label map is missing"


def spoil_picture(root):
    next(root.rglob("images/validation/ADE_val_00000002.jpg")).unlink()
    return "ADE_val_00000002.jpg: the picture is missing"


def spoil_picture_size(root):
    path = next(root.rglob("images/validation/ADE_val_00000002.jpg"))
    Image.fromarray(picture((5, 5), 0)).save(path)
    return "ADE_val_00000002.jpg: expected the size of its labels, 14x12, got 5x5"


def spoil_picture_end(root):
    path = next(root.rglob("images/validation/ADE_val_00000002.jpg"))
    path.write_bytes(path.read_bytes()[:-300])
    return "ADE_val_00000002.jpg: cannot be read as a picture (Truncated"


def spoil_list(root):
    path = root / "prepared/ade/items.jsonl"
    path.write_text(path.read_text().replace("00002", "00009"))
    return "items.jsonl: is not the list that was written"


def spoil_head(root):
    (root / "prepared/ade/dataset.json").write_text('{"format": "other"}')
    return "dataset.json: expected format"


def spoil_histogram(root):
    path = root / "prepared/ade/dataset.json"
    head = json.loads(path.read_text())
    head["histogram"][3] += 1
    path.write_text(json.dumps(head))
    return "the label histogram is not what dataset.json says"


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_labels, spoil_missing, spoil_picture, spoil_picture_size, spoil_picture_end,
        spoil_list, spoil_head, spoil_histogram,
    ],
    ids=lambda spoil: spoil.__name__,
)  # fmt: skip
def test_verify_names_what_is_wrong(spoil, tmp_path, capsys, three):
    label_archives.ade(tmp_path)
    assert openseg(capsys, "prepare", "ade", "--root", tmp_path)[0] == 0
    message = spoil(tmp_path)
    code, _, err = openseg(capsys, "verify", "ade", "--root", tmp_path)
    assert code == 2 and err.count("\n") == 1 and message in err
    assert any(fix in err for fix in ("--again", "unpack", "download"))


def test_verify_a_users_own_set(tmp_path, capsys):
    for i in range(3):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(picture((8, 9), i)).save(tmp_path / "images" / f"{i}.png")
        save_labels(tmp_path / "masks" / f"{i}.png", np.full((8, 9), i % 2))
    (tmp_path / "classes.txt").write_text("zebra\ngrass\nmud\n")
    code, out, _ = openseg(capsys, "verify", "folder", "--root", tmp_path)
    assert code == 0 and "folder (folder): 3 items" in out
    assert "1 of 3 classes have no pixel: mud" in out
    save_labels(tmp_path / "masks" / "1.png", np.full((8, 9), 3))
    save_labels(tmp_path / "masks" / "2.png", np.zeros((9, 8)))
    code, out, err = openseg(capsys, "verify", "folder", "--root", tmp_path)
    assert code == 2 and "images/2.png: expected the size of its labels, 8x9" in err
    assert "(and 1 more)" in err and "masks/1.png: expected labels from 0 to 2" in out

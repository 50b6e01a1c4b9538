"""`openseg classify-masks` and its function, on a tiny model with random weights."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import openseg_jax
from openseg_jax.cli.main import main
from openseg_jax.errors import UserError
from openseg_jax.inputs.images import read_image


@pytest.fixture
def masks():
    out = np.zeros((5, 40, 48), bool)
    out[0, :20], out[1, 20:], out[2, 5:9, 5:9], out[4] = True, True, True, True
    return out


def classify(picture, masks, model, **settings):
    return openseg_jax.classify_masks(
        picture, masks, ["zebra", "grass", "sky"], model=str(model), temperature=5.0, **settings
    )


def test_scores_are_the_same_from_every_source_and_number(picture, masks, tiny_model, tmp_path):
    found = classify(picture, masks, tiny_model)
    assert found.scores.shape == (5, 3) and found.labels[3] == ""
    np.testing.assert_allclose(found.scores.sum(1), [1, 1, 1, 0, 1], atol=1e-5)
    assert "without a pixel have no label: 3" in " ".join(found.notes)
    np.savez(tmp_path / "m.npz", masks)
    np.testing.assert_array_equal(classify(picture, tmp_path / "m.npz", tiny_model).scores,
                                  found.scores)  # fmt: skip
    # Eighteen masks fill another bucket, and each keeps its score.
    more = classify(read_image(picture), np.concatenate([masks] * 4)[:18], tiny_model)
    np.testing.assert_allclose(more.scores, np.concatenate([found.scores] * 4)[:18], atol=1e-5)


def test_the_command_writes_table_json_and_overlay(picture, masks, tiny_model, tmp_path, capsys):
    labels = masks[0] + 2 * masks[1].astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    out = tmp_path / "out"
    words = ["classify-masks", picture, "--masks", tmp_path / "labels.png", "--labels",
             "zebra, grass, sky", "--model", tiny_model, "--out", out]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    assert "labels by score" in capsys.readouterr().out
    data = json.loads((out / "photo_masks.json").read_text())
    assert [row["mask"] for row in data["masks"]] == ["1", "2"]
    assert data["provenance"]["method"] == "Maft" and data["labels"] == ["zebra", "grass", "sky"]
    with (out / "photo_masks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["zebra"]) == data["masks"][0]["scores"]["zebra"]
    assert Image.open(out / "photo_masks_overlay.png").size[0] >= 48
    assert main([*(str(word) for word in words), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["masks"] == data["masks"]


def test_mistakes_are_one_line_and_write_nothing(picture, tiny_model, tmp_path, capsys):
    np.savez(tmp_path / "m.npz", np.zeros((2, 40, 48), bool))
    words = ["classify-masks", picture, "--masks", tmp_path / "m.npz", "--labels", "zebra",
             "--model", tiny_model, "--out", tmp_path / "out"]  # fmt: skip
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert "no mask has a single pixel" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_arrays_are_checked(picture, tiny_model):
    for masks, message in (
        (np.zeros((0, 40, 48)), "at least one mask"),
        (np.ones((1, 40, 40)), "picture's size 48x40, got 40x40"),
        (np.full((1, 40, 48), np.nan), "NaN"),
    ):
        with pytest.raises(UserError, match=message):
            classify(picture, masks, tiny_model)

"""`openseg evaluate --benchmark refcoco_val`: from an official archive to a report."""

import io
import json
import types

import numpy as np
import pytest
from openseg_jax.data.prepare.run import prepare
from PIL import Image

from openseg_jax import api
from openseg_jax.cli.main import main
from openseg_jax.methods.base import METHODS
from tests.data import official
from tests.data.test_referring import row
from tests.eval.colours import COLOURS, Colours

SIDE = 64
# Of picture 7: a red and a green square; of picture 8: a blue one.
SQUARES = {70: (7, "red", 4, 6), 71: (7, "green", 34, 30), 80: (8, "blue", 10, 20)}
WIDTH = 26


def load(model, **settings):
    """What METHODS names for the tests' method."""
    return Colours()


def corners(x, y):
    return [x, y, x + WIDTH, y, x + WIDTH, y + WIDTH, x, y + WIDTH]


@pytest.fixture
def root(tmp_path):
    """RefCOCO of three objects, prepared."""
    pictures = [
        {"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "height": SIDE, "width": SIDE}
        for i in (7, 8)
    ]
    annotations = [
        {"id": i, "image_id": picture, "category_id": 1, "iscrowd": 0,
         "segmentation": [corners(x, y)]}
        for i, (picture, _, x, y) in SQUARES.items()
    ]  # fmt: skip
    refs = [
        row(1, 7, 70, "val", "red", "Red"), row(2, 7, 71, "val", "green"),
        row(3, 8, 80, "val", '"blue"', "red"), row(4, 7, 70, "testA", "red"),
    ]  # fmt: skip
    files = {
        "refcoco/instances.json": official.instances(pictures, annotations),
        "refcoco/refs(unc).p": official.refs(refs),
    }
    official.write_zip(tmp_path / "refcoco.zip", files)
    images = {}
    for picture in (7, 8):
        pixels = np.full((SIDE, SIDE, 3), 90, np.uint8)
        for owner, colour, x, y in SQUARES.values():
            if owner == picture:
                pixels[y : y + WIDTH, x : x + WIDTH] = COLOURS[colour]
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "JPEG", quality=98, subsampling=0)
        images[f"train2014/COCO_train2014_{picture:012d}.jpg"] = data.getvalue()
    official.write_zip(tmp_path / "train2014.zip", images)
    prepare("refcoco", tmp_path, workers=1)
    return tmp_path


@pytest.fixture
def colours(monkeypatch):
    monkeypatch.setitem(METHODS, "maft", (__name__, "load"))
    api.load.cache_clear()
    yield
    api.load.cache_clear()


def evaluate(root, method, *more):
    out = root / "out"
    argv = ["evaluate", "-b", "refcoco_val", "--method", method, "--data-dir", str(root)]
    return main([*argv, "-o", str(out), "--json", *more]), out / "refcoco_val"


def test_a_report_on_referred_objects(root, colours, capsys):
    code, out = evaluate(root, "maft")
    said = capsys.readouterr()
    assert code == 0, said.err
    (result,) = json.loads(said.out)["results"]
    assert result["task"] == "referring" and len(result["rows"]) == 3
    assert result["metrics"]["oiou"] > 0.9 and result["metrics"]["found_0.9"] == 1.0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "“Red”" in page and page.count("<img") == 3 * 3
    assert "oIoU" in (out / "report.md").read_text(encoding="utf-8")


def test_a_variant_that_nobody_asked_for_is_named(root, colours, monkeypatch, capsys):
    monkeypatch.setattr(Colours, "config", types.SimpleNamespace(variant="loud"), raising=False)
    assert evaluate(root, "maft", "--limit", "1")[0] == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["method"] == "maft/loud"


def test_without_the_data_set_the_command_to_run_is_named(tmp_path, colours, capsys):
    code, _ = evaluate(tmp_path, "maft")
    assert code == 2 and "openseg data prepare refcoco --root" in capsys.readouterr().err


@pytest.mark.slow
def test_car_runs_by_its_published_settings(root, capsys):
    code, out = evaluate(root, "car", "--limit", "2", "--set", "car.refine=none")
    said = capsys.readouterr()
    assert code == 0, said.err
    (result,) = json.loads(said.out)["results"]
    assert [len(texts) for _, texts, _, _ in result["rows"]] == [2, 1]
    assert "averaged by score" in result["provenance"]["rule"]
    assert "33.57" in (out / "report.md").read_text(encoding="utf-8")

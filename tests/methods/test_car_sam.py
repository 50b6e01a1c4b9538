"""CaR with a Segment Anything of random weights: from Python, the command line and evaluation."""

import json

import numpy as np
import pytest

from openseg_jax import api
from openseg_jax.cli import main as cli
from openseg_jax.errors import UserError
from openseg_jax.inputs.images import read_image
from openseg_jax.methods.base import load_segmenter
from openseg_jax.methods.car_config import configure
from openseg_jax.methods.car_refine import rematch
from openseg_jax.methods.sam_masks import load
from tests.weights.sam_side import ODD, save

# So that random weights give masks, and each of ours takes some.
GENERATOR = {
    "points_per_side": 3, "pred_iou_threshold": 0.0, "stability_threshold": 0.0,
    "nms_threshold": 1.0,
}  # fmt: skip
RULES = {"refine": "none", "sam_iou": -1.0, "sam_iom": 0.3}
NAMES = ["zebra", "grass", "lemon"]


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    """Path of a folder as transformers saves it."""
    folder = tmp_path_factory.mktemp("sam")
    save(folder, ODD)
    return folder


@pytest.mark.slow
def test_sams_masks_replace_ours_from_python(sam, tiny_model, picture):
    image = read_image(picture)
    plain = load_segmenter("car", tiny_model, **RULES)
    ours = plain.predict(image, NAMES)
    proposals = load(sam, **GENERATOR)(image)
    assert len(proposals) and ours.masks.any()
    want = rematch(image, ours.masks, lambda image: proposals, configure(**RULES))
    assert (want != ours.masks).any()
    for given in ({"sam": str(sam), "sam_settings": GENERATOR}, {"masks": load(sam, **GENERATOR)}):
        got = load_segmenter("car", tiny_model, **RULES, **given).predict(image, NAMES)
        np.testing.assert_array_equal(got.masks, want)
        np.testing.assert_array_equal(got.scores, ours.scores)
    result = api.segment(
        picture, NAMES, model=str(tiny_model), sam=str(sam), sam_settings=GENERATOR, **RULES
    )
    own = api.segment(picture, NAMES, model=str(tiny_model), **RULES)
    assert (result.label_map != own.label_map).any()
    assert result.kept == own.kept
    assert len(result.record["models"]) == 1 + len(own.record["models"])


@pytest.mark.slow
def test_from_the_command_line_and_in_evaluation(sam, tiny_model, world_model, picture, tmp_path):
    out, labels = tmp_path / "o", ("--labels", ",".join(NAMES))
    words = ("--model", str(tiny_model), "--sam", str(sam), "--refine", "pamr", "-o", str(out))
    assert cli.main(["segment", str(picture), *labels, *words]) == 0
    made = json.loads((out / "photo.json").read_text())["provenance"]
    assert made["settings"]["sam"] == str(sam) and made["settings"]["refine"] == "pamr"
    settings = [f"car.{key}={value!r}" for key, value in {**RULES, "sam": str(sam)}.items()]
    settings.append(f"car.sam_settings={GENERATOR!r}")
    flags = [word for setting in settings for word in ("--set", setting)]
    where = ("--model", str(world_model), "--limit", "2", "-o", str(tmp_path / "eval"))
    assert cli.main(["evaluate", "-b", "miniature", "--method", "car", *where, *flags]) == 0
    report = json.loads((tmp_path / "eval" / "miniature" / "report.json").read_text())
    assert report["results"][0]["provenance"]["settings"]["sam"] == str(sam)


def test_unknown_weights_offer_the_nearest(tiny_model, picture, capsys, tmp_path):
    with pytest.raises(UserError, match="SAM-B"):
        load_segmenter("car", tiny_model, sam="SAM-P")
    call = ["segment", str(picture), "-l", "zebra", "--model", str(tiny_model), "--sam", "sam-x"]
    assert cli.main([*call, "-o", str(tmp_path / "o")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "SAM-" in said and not (tmp_path / "o").exists()
    with pytest.raises(UserError, match="points_per_side"):
        load_segmenter(
            "car", tiny_model, sam=str(picture.parent), sam_settings={"point_per_side": 2}
        )

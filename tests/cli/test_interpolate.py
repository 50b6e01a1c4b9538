import json

import numpy as np
import pytest
from PIL import Image

from openseg_jax.cli.interpolate import parse_alphas
from openseg_jax.cli.main import main
from openseg_jax.errors import UserError
from openseg_jax.weights.folder import load_folder, save_folder
from openseg_jax.weights.interpolate import interpolate
from openseg_jax.weights.tree import flatten, unflatten


@pytest.fixture(scope="module")
def tuned(tiny_model, tmp_path_factory):
    """A folder of the same architecture with other weights."""
    loaded = load_folder(tiny_model)
    rng = np.random.default_rng(1)
    other = {n: x + rng.normal(0, 0.1, x.shape) for n, x in flatten(loaded.params).items()}
    params = unflatten({n: x.astype(np.float32) for n, x in other.items()})
    path = tmp_path_factory.mktemp("models") / "tuned"
    save_folder(
        path, loaded.config, params, loaded.preprocess, loaded.tokenizer,
        {**loaded.provenance, "name": "tuned"}, loaded.defaults,
    )  # fmt: skip
    return path


def test_one_alpha_writes_the_folder(tiny_model, tuned, tmp_path, capsys):
    out = tmp_path / "half"
    assert main(["interpolate", str(tiny_model), str(tuned), str(out), "--alpha", "0.25"]) == 0
    assert "alpha 0.25" in capsys.readouterr().out
    want = interpolate(load_folder(tiny_model), load_folder(tuned), 0.25)
    got = load_folder(out)
    for name, leaf in flatten(want.params).items():
        np.testing.assert_array_equal(flatten(got.params)[name], leaf)
    assert got.provenance["name"] == "tiny to tuned, alpha 0.25"
    # A folder of ours may be replaced, as `convert` does it.
    assert main(["interpolate", str(tiny_model), str(tuned), str(out), "--alpha", "1"]) == 0


def test_several_alphas_write_several_folders_and_tables(tiny_model, tuned, tmp_path, capsys):
    for kind in ("lemon", "zebra"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(tmp_path / "set" / kind / "0.png")
    words = ["interpolate", str(tiny_model), str(tuned), str(tmp_path / "out"), "--alpha", "0,1"]
    asked = ["--evaluate", str(tmp_path / "set"), "--templates", "simple"]
    assert main([*words, *asked, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["alpha"] for row in rows] == [0.0, 1.0]
    found = [row[str(tmp_path / "set")] for row in rows]
    assert found == [{"zero_shot/top1": 0.5, "zero_shot/pictures": 2.0}] * 2
    for name, side in (("alpha_0", tiny_model), ("alpha_1", tuned)):
        got, want = (flatten(load_folder(x).params) for x in (tmp_path / "out" / name, side))
        assert all(np.array_equal(got[key], want[key]) for key in want)
    assert main([*words[:3], *words[4:], *asked]) == 0
    assert "50.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, told",
    [
        ([], "OUT: expected a folder"),
        (["{out}", "--alpha", "2"], "--alpha: expected distinct numbers"),
        (["{before}"], "source and target are the same"),
        (["{after}"], "source and target are the same"),
        (["{mine}"], "no model folder of ours"),
        (["{after}", "--alpha", "0,1"], "is a model folder"),
        (["{out}", "--evaluate", "nowhere"], "evaluate.path"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    tiny_model, tuned, tmp_path, capsys, words, told
):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    places = {
        "out": tmp_path / "out", "before": tiny_model, "after": tuned, "mine": tmp_path / "mine",
    }  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    given = [word.format(**places) for word in words]
    assert main(["interpolate", str(tiny_model), str(tuned), *given]) == 2
    error = capsys.readouterr().err.strip()
    assert told in error and "\n" not in error
    assert sorted(tmp_path.rglob("*")) == before


def test_alphas_are_distinct_numbers():
    assert parse_alphas("0,0.25, 1") == [0.0, 0.25, 1.0]
    for wrong in ("", "0,0", "half", "nan", "-0.5"):
        with pytest.raises(UserError, match="--alpha"):
            parse_alphas(wrong)

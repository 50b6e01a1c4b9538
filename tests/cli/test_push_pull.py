"""`openseg push` and `openseg pull`, with a hub in a folder."""

import json
import shutil

import numpy as np
import pytest

import openseg_jax
from openseg_jax.cli import main as cli
from openseg_jax.weights import hub
from openseg_jax.weights.folder import load_folder, save_folder
from openseg_jax.weights.registry import MINIATURE
from tests.weights.fake_hub import FakeHub
from tests.weights.tiny import CLIP_MU, PREPROCESS, PROVENANCE, random_params, tokenizer


@pytest.fixture
def api(tmp_path, monkeypatch):
    made = FakeHub(tmp_path / "cache")
    monkeypatch.setattr(hub, "client", lambda: made)
    return made


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "mu"
    provenance = {**PROVENANCE, "licence": "MIT"}
    save_folder(path, CLIP_MU, random_params(CLIP_MU), PREPROCESS, tokenizer(), provenance)
    return path


@pytest.mark.slow
def test_a_pulled_model_segments_the_same(api, tmp_path, capsys):
    folder = tmp_path / "mini"
    shutil.copytree(MINIATURE, folder)
    assert cli.main(["push", str(folder), "jane/mini", "--private"]) == 0
    assert cli.main(["pull", "jane/mini", str(tmp_path / "back")]) == 0
    said = capsys.readouterr().out
    assert "pushed" in said and f"in {tmp_path / 'back'}" in said and "licence: Apache-2.0" in said
    assert api.private == {"jane/mini"}
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    results = [
        openseg_jax.segment(picture, ["zebra", "grass"], method="clip_dense", model=model)
        for model in (str(folder), "hf:jane/mini")
    ]
    np.testing.assert_array_equal(results[0].masks, results[1].masks)


def test_a_dry_run_shows_card_and_files_and_asks_nothing(api, folder, capsys):
    (folder / "diary.txt").write_text("mine")
    assert cli.main(["push", str(folder), "jane/mu", "--dry-run", "--saw", "a test"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("---\nlicense: mit\n") and "a test" in said
    listed = said.split("would push to jane/mu:\n")[1]
    assert [line.split()[0] for line in listed.splitlines()[:4]] == [
        "README.md", "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert "would leave here: diary.txt" in listed
    assert not api.calls


def test_flags_complete_what_a_folder_does_not_say(api, tmp_path, capsys):
    path = tmp_path / "mu"
    bare = {**PROVENANCE, "licence": "unknown; see where the files came from", "saw": "unknown"}
    save_folder(path, CLIP_MU, random_params(CLIP_MU), PREPROCESS, tokenizer(), bare)
    assert cli.main(["push", str(path), "jane/mu"]) == 2
    assert "--licence" in capsys.readouterr().err and not api.calls
    assert cli.main(["push", str(path), "jane/mu", "--licence", "MIT"]) == 2
    assert "--saw" in capsys.readouterr().err and not api.calls
    words = ["--licence", "MIT", "--saw", "noise"]
    assert cli.main(["push", str(path), "jane/mu", *words]) == 0
    told = json.loads(api.repos["jane/mu"]["config.json"])["provenance"]
    assert (told["licence"], told["saw"]) == ("MIT", "noise")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["push", "nowhere", "jane/mu"], "found no config.json"),
        (["push", "photos", "jane/mu"], "found no config.json"),
        (["push", "hf", "jane/mu"], "expected format 'openseg_jax'"),
        (["push", "mu", "mu"], "repository: expected owner/name"),
        (["push", "mu", "jane/mu@main"], "leave it out"),
        (["push", "mu"], "the following arguments are required: repo"),
        (["push", "mu", "jane/mu", "--evaluation", "no.json"], "no.json: cannot read"),
        (["push", "mu", "jane/mu", "--licence", " "], "--licence"),
        (["pull", "jane"], "repository: expected owner/name"),
        (["pull", "jane/mu", "--revision", "a b"], "revision: expected"),
        (["pull", "jane/mu", "photos"], "exists and is no model folder of ours"),
    ],
)
def test_bad_wishes_are_one_line_and_ask_nothing(
    api, folder, tmp_path, capsys, monkeypatch, words, match
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("mine")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text('{"model_type": "clip"}')
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert match in said and said.count("\n") == 1
    assert not api.calls and (tmp_path / "photos" / "a.jpg").read_text() == "mine"


def test_a_failed_pull_leaves_the_older_folder(api, folder, tmp_path, capsys):
    assert cli.main(["push", str(folder), "jane/mu", "--saw", "x"]) == 0
    target = tmp_path / "target"
    assert cli.main(["pull", "jane/mu", str(target)]) == 0
    before = load_folder(target).fingerprint
    api.spoil = {"model.safetensors"}
    assert cli.main(["pull", "jane/mu", str(target)]) == 2
    assert "differs from what the hub says" in capsys.readouterr().err
    assert load_folder(target).fingerprint == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "mu", "target"]


def test_a_revision_is_kept_in_what_to_type_next(api, folder, tmp_path, capsys):
    assert cli.main(["push", str(folder), "jane/mu", "--saw", "x"]) == 0
    for words in (["jane/mu", "--revision", "v1"], ["hf:jane/mu@v1"]):
        capsys.readouterr()
        assert cli.main(["pull", *words]) == 0
        assert "--model hf:jane/mu@v1\n" in capsys.readouterr().out


def test_a_pull_replaces_no_file(api, folder, tmp_path, capsys):
    np.savez(tmp_path / "mine.npz", a=np.zeros(3))
    before = (tmp_path / "mine.npz").read_bytes()
    assert cli.main(["push", str(folder), "jane/mu", "--saw", "x"]) == 0
    assert cli.main(["pull", "jane/mu", str(tmp_path / "mine.npz")]) == 2
    assert "exists and is no model folder of ours" in capsys.readouterr().err
    assert (tmp_path / "mine.npz").read_bytes() == before


def report(folder, path, fingerprint):
    from openseg_jax.eval.report import write_reports
    from openseg_jax.eval.result import Result

    result = Result(
        benchmark="test", method="car", model="mu", classes=("background", "zebra"),
        background=True, matrix=np.array([[5, 1], [2, 8]]), missed=None, unseen=None, rows=(),
        provenance={"models": [{"name": "mu", "fingerprint": fingerprint}]}, timings={},
    )  # fmt: skip
    return write_reports(path, [result])[0]


def test_an_evaluation_of_these_weights_goes_on_the_card(api, folder, tmp_path, capsys):
    mine = report(folder, tmp_path / "mine", load_folder(folder).fingerprint)
    words = ["push", str(folder), "jane/mu", "--saw", "x", "--dry-run", "--evaluation"]
    assert cli.main([*words, str(mine)]) == 0
    said = capsys.readouterr().out
    assert "## Evaluation" in said and "| test | car | pixel\\_accuracy | 0.8125 |" in said
    other = report(folder, tmp_path / "other", "another")
    assert cli.main([*words, str(other)]) == 2
    assert "was measured on other weights" in capsys.readouterr().err

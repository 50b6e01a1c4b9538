"""`openseg gates --method segclip`: a row for each training, and an exit code that says so."""

import json

import numpy as np
import pytest

from openseg_jax.cli.main import main
from openseg_jax.eval import miniature_contest
from openseg_jax.eval.miniature_contest import VARIANTS, ContestScores, Tuned


@pytest.fixture
def measured(monkeypatch):
    """Canned measurements; `measured["background"]` is the all-background score."""
    state = {"background": 0.05}

    class Canned:
        def __init__(self, model):
            self.name = model

        def measure(self, *, seed, stream, scenes, progress):
            progress(scenes, scenes)
            good, bad = np.zeros((2, scenes, 25, 25), int)
            good[:, 1, 1] = bad[:, 1, 1] = 50
            bad[:, 1, 0] = 50
            counts = {name: good if name == "segclip" else bad for name in VARIANTS}
            tuned = Tuned({"segclip": 0.5}, {}, {"segclip": True}, {"segclip": 1.0}, {})
            return ContestScores(
                self.name, (seed,), scenes, (tuned,), counts, state["background"], 5.5
            )

    monkeypatch.setattr(miniature_contest, "Contest", Canned)
    return state


WORDS = ["gates", "--method", "segclip", "--seeds", "2", "--scenes", "3"]


def test_table_and_exit_code(measured, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    assert main([*WORDS, "--model", "runs/a", "--model", "runs/b"]) == 0
    out = capsys.readouterr().out
    assert "gates passed" in out and "runs/b" in out and "100.0 ± 0.0" in out
    assert "+50.0 to +50.0" in out
    measured["background"] = 0.5
    assert main([*WORDS, "--model", "runs/a"]) == 1
    assert "gates missed" in capsys.readouterr().out


def test_json(measured, capsys):
    assert main([*WORDS, "--model", "runs/a", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] and found["segclip"][0]["scenes"] == 6
    assert found["segclip"][0]["foreground"]["patch_text"]["mean"] == 0.5


def test_car_takes_one_model(capsys):
    assert main(["gates", "--model", "a", "--model", "b"]) != 0
    assert "expected one, got 2" in capsys.readouterr().err

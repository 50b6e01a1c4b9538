"""`openseg gates`: both kinds of numbers from one command, and an exit code that says so."""

import json

import numpy as np
import pytest

from openseg_jax.cli.main import main
from openseg_jax.eval import gates, miniature_car
from openseg_jax.eval.confusion import metrics


@pytest.fixture
def measured(monkeypatch):
    """Canned measurements; `measured["gain"]` sets how much the recurrence gains."""
    state = {"gain": 0.5}

    def clip_scores(loaded, *, seed, stream, scenes):
        names = {"zebra": 0.9, "egg": 0.95, "road": 1.0}
        return gates.ClipScores(seed, stream, scenes, 9, 0.95, 0.93, names, names)

    def car_miou(loaded, *, seed, stream, scenes, progress):
        progress(scenes, scenes)
        wrong = int(100 * state["gain"])
        good, bad = np.zeros((31, 31), int), np.zeros((31, 31), int)
        good[1, 1] = 100
        bad[1, 1], bad[1, 0] = 100 - wrong, wrong
        found = {"recurrence": good, "one_pass": bad, "image_filter": bad}
        return miniature_car.CarScores(
            seed, scenes, 0.2, 4, {name: metrics(m) for name, m in found.items()}
        )

    monkeypatch.setattr(gates, "clip_scores", clip_scores)
    monkeypatch.setattr(miniature_car, "car_miou", car_miou)
    return state


def test_tables_and_exit_code(measured, world_model, capsys):
    words = ["gates", "--model", str(world_model), "--seeds", "2"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "gates passed" in out and "50.0" in out and "threshold" in out
    measured["gain"] = 0.05
    assert main(words) == 1
    assert "gates missed" in capsys.readouterr().out
    assert main([*words, "--car-scenes", "0"]) == 0
    assert "threshold" not in capsys.readouterr().out


@pytest.mark.parametrize("method", ["car", "segclip"])
@pytest.mark.parametrize("flag", ["--seeds", "--scenes"])
def test_nothing_to_measure_is_no_pass(method, flag, capsys):
    assert main(["gates", "--method", method, flag, "0"]) == 2
    assert f"{flag}: expected at least 1, got 0" in capsys.readouterr().err


def test_json(measured, world_model, capsys):
    assert main(["gates", "--model", str(world_model), "--seeds", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["clip"][0]["top1"] == 0.95
    assert found["car"][0]["gain"] == pytest.approx(0.5)

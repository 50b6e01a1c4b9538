"""`%openseg` in notebooks, and what a mistake looks like there."""

from __future__ import annotations

import importlib.util

import pytest

import openseg_jax
from openseg_jax.cli import notebook
from openseg_jax.cli.notebook import openseg
from openseg_jax.errors import UserError


class Shell:
    def __init__(self, **variables):
        self.magics, self.user_ns = {}, variables

    def register_magic_function(self, function, kind, name):
        self.magics[kind, name] = function


def test_the_extension_adds_the_command(monkeypatch):
    if importlib.util.find_spec("IPython") is None:
        pytest.skip("IPython is not installed; run: pip install 'openseg_jax[test-people]'")
    given = []
    monkeypatch.setattr(notebook, "prepare_environment", lambda: None)
    monkeypatch.setattr(notebook, "dispatch", lambda words: given.append(words) or 0)
    shell = Shell(LABELS="cat")
    openseg_jax.load_ipython_extension(shell)
    shell.magics["line", "openseg"]("segment {LABELS}")
    assert given == [["segment", "cat"]]


def test_variables_keep_their_characters(monkeypatch):
    given = []
    monkeypatch.setattr(notebook, "dispatch", lambda words: given.append(words) or 0)
    variables = {
        "LABELS": """cat's eye, "person, people" {x} $HOME""", "run": "a b", "n": 3,
        "flags": ["--set=a=(1, 2)", "--set=b='c'"], "none": [],
    }  # fmt: skip
    line = "train {LABELS} '{run}/model' --n={n} {flags} {none} 'x/{00000..00331}.tar'"
    openseg(line, variables)
    assert given == [
        ["train", variables["LABELS"], "a b/model", "--n=3", *variables["flags"],
         "x/{00000..00331}.tar"]
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"\{LABEL\}: no such variable here"):
        openseg("segment {LABEL}", variables)


def test_it_runs_in_this_process(capsys):
    openseg("models")
    assert "ViT-B-16" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["", "--version", "train --help"])
def test_help_is_no_error(line, capsys):
    openseg(line)
    assert "openseg" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sement photo.jpg", "did you mean 'segment'?"),
        ("models --jsn", "did you mean --json?"),
        ("train --config clip_finetun --workdir x", "did you mean 'clip_finetune'?"),
        ('segment photo.jpg --labels "cat', "no closing quotation; correct them in: segment"),
        ("plan --config clip_finetune --topology v5e-17", "did you mean 'v5e-1"),
    ],
)
def test_mistakes_are_user_errors(line, said):
    with pytest.raises(UserError) as caught:
        openseg(line)
    (shown,) = caught.value._render_traceback_()
    assert said in shown
    assert "\n" not in shown
    assert shown.startswith("openseg: ")
    assert shown.count("openseg: ") == 1


def test_a_verb_with_its_own_process_prints_here(capsys):
    openseg("plan --topologies")
    assert "v5e-256" in capsys.readouterr().out


def test_defects_are_one_line_too(monkeypatch):
    def fail(argv):
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(notebook, "dispatch", fail)
    with pytest.raises(UserError, match=r"internal error, RuntimeError: first \(OPENSEG_DEBUG=1"):
        openseg("models")
    monkeypatch.setenv("OPENSEG_DEBUG", "1")
    with pytest.raises(RuntimeError):
        openseg("models")


def test_an_exit_code_stops_the_cell(monkeypatch):
    monkeypatch.setattr(notebook, "dispatch", lambda argv: 130)
    with pytest.raises(UserError, match="train ended early, with code 130"):
        openseg("train")


def test_debugging_leaves_the_traceback_to_ipython(monkeypatch):
    monkeypatch.setenv("OPENSEG_DEBUG", "1")
    with pytest.raises(NotImplementedError):
        UserError("x")._render_traceback_()

import argparse

import pytest

from openseg_jax.cli import distributed
from openseg_jax.cli.main import main
from openseg_jax.errors import UserError


def _join(*words):
    parser = argparse.ArgumentParser()
    distributed.add_arguments(parser, "the batches")
    distributed.join(parser.parse_args(words))


@pytest.fixture
def calls(monkeypatch):
    seen = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *args: seen.append(args))
    return seen


def test_nothing_is_joined_unless_asked_for(calls):
    _join()
    assert not calls


def test_clusters_need_no_words_and_others_three(calls):
    _join("--distributed")
    _join("--coordinator", "host:1234", "--processes", "4", "--process", "3")
    assert calls == [(None, None, None), ("host:1234", 4, 3)]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--coordinator", "host:1"], "--coordinator: .* got no --processes and --process;"),
        (["--distributed", "--process", "1"], "--process: .* got no --coordinator and"),
        (["--coordinator", "host", "--processes", "2", "--process", "0"], "HOST:PORT"),
        (["--coordinator", "h:1", "--processes", "0", "--process", "0"], "--processes: .* 1 or"),
        (["--coordinator", "h:1", "--processes", "2", "--process", "2"], "--process: .* 0 to 1"),
    ],
)
def test_words_that_do_not_fit(calls, words, match):
    with pytest.raises(UserError, match=match):
        _join(*words)
    assert not calls


def test_where_there_is_no_cluster_one_line_says_so(tmp_path, capsys):
    for verb in (["train", "--config", "miniature_clip:tiny", "--workdir", str(tmp_path)],
                 ["evaluate", "--benchmark", "miniature"]):  # fmt: skip
        assert main([*verb, "--distributed"]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("openseg: --distributed: cannot join the other processes (")


def test_lost_processes_are_told_from_defects():
    class JaxRuntimeError(RuntimeError):
        pass

    assert distributed.is_lost(JaxRuntimeError("UNKNOWN: Gloo AllGather failed: reset by peer"))
    assert not distributed.is_lost(JaxRuntimeError("INTERNAL: no idea"))
    assert not distributed.is_lost(RuntimeError("Gloo"))
    distributed.leave(1)  # outside a job it does nothing

"""The dispatcher: verbs, help, exit codes, one line for every mistake."""

import os
import subprocess
import sys
import types

import pytest

import openseg_jax
from openseg_jax.cli import main as cli
from openseg_jax.errors import UserError


@pytest.fixture
def verb(monkeypatch):
    """A verb of our own; `verb.run` is what it does."""
    module = types.ModuleType("tests_fake_verb", "Do nothing, as a test.\n\nMore text.")
    module.run = lambda args: 0
    module.add_arguments = lambda parser: parser.add_argument("--labels")
    monkeypatch.setitem(sys.modules, "tests_fake_verb", module)
    monkeypatch.setitem(cli.VERBS, "fake", ("tests_fake_verb", "do nothing"))
    return module


def fails_with(error):
    def run(args):
        raise error

    return run


def test_version_and_help(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"openseg_jax {openseg_jax.__version__}\n"
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in cli.VERBS)
    assert len(out.splitlines()) <= 24
    assert cli.main([]) == 2


def test_unknown_verb_offers_the_closest(capsys):
    assert cli.main(["segmnt", "a.jpg"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "did you mean 'segment'?" in err


def test_only_the_chosen_module_is_imported(verb, capsys, monkeypatch):
    monkeypatch.setitem(cli.VERBS, "other", ("no_such_module", ""))
    assert cli.main(["fake"]) == 0


def test_unknown_option_offers_the_closest(verb, capsys):
    assert cli.main(["fake", "--lables", "zebra"]) == 2
    err = capsys.readouterr().err
    assert err == (
        "openseg: unknown argument '--lables'; did you mean --labels?; see openseg fake --help\n"
    )
    assert cli.main(["fake", "--labels"]) == 2
    err = capsys.readouterr().err
    assert "expected one argument" in err and err.count("\n") == 1


def test_help_of_a_verb(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["fake", "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "Do nothing" in out and "More text" not in out


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("labels: none\ngiven"), 2, "openseg: labels: none given\n"),
        (KeyboardInterrupt(), 130, "openseg: interrupted\n"),
        (MemoryError(), 1, "out of memory; use fewer labels"),
        (RuntimeError("RESOURCE_EXHAUSTED: 9 GiB"), 1, "out of memory"),
        (OSError(28, "No space left on device", "out/a.png"), 1, "out/a.png: No space left"),
        (TypeError("a defect\nof ours"), 1, "internal error, TypeError: a defect (OPENSEG_DEBUG=1"),
    ],
)
def test_errors_are_one_line(verb, capsys, error, code, text):
    verb.run = fails_with(error)
    assert cli.main(["fake"]) == code
    err = capsys.readouterr().err
    assert text in err and err.count("\n") == 1 and "Traceback" not in err


def test_debug_shows_the_traceback(verb, monkeypatch):
    monkeypatch.setenv("OPENSEG_DEBUG", "1")
    verb.run = fails_with(UserError("labels"))
    with pytest.raises(UserError):
        cli.main(["fake"])


def test_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENSEG_CACHE", str(tmp_path / "c"))
    folder = cli.cache_folder()
    assert folder.is_dir() and folder.parent == tmp_path / "c"
    monkeypatch.setenv("OPENSEG_CACHE", "off")
    assert cli.cache_folder() is None
    (tmp_path / "file").touch()
    monkeypatch.setenv("OPENSEG_CACHE", str(tmp_path / "file" / "below"))
    assert cli.cache_folder() is None
    monkeypatch.setenv("OPENSEG_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cli.cache_folder().parent == tmp_path / "openseg_jax" / "xla"


def test_environment_respects_the_users_own(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("JAX_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OPENSEG_CACHE", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/their/own")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "7")
    monkeypatch.setenv("GRPC_VERBOSITY", "INFO")
    cli.prepare_environment()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/their/own"
    assert os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "7"
    assert os.environ["GRPC_VERBOSITY"] == "INFO"


_COMPILE = """
import os, sys, time
from openseg_jax.cli import main
main.prepare_environment()
import jax, jax.numpy as jnp
from jax._src import monitoring
seconds = []
monitoring.register_event_duration_secs_listener(
    lambda name, s, **_: seconds.append(s) if "backend_compile" in name else None
)
hits = []
monitoring.register_event_listener(
    lambda name, **_: hits.append(name) if name.endswith("cache_hits") else None
)
def f(x):
    for i in range(40):
        x = jnp.tanh(x @ x) + jnp.sort(x, axis=i % 2)
    return x
jax.jit(f)(jnp.ones((64, 64))).block_until_ready()
print(sum(seconds), len(hits))
"""


def test_a_second_process_does_not_compile_again(tmp_path):
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    env |= {"OPENSEG_CACHE": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    found = []
    for _ in range(2):
        out = subprocess.run(
            [sys.executable, "-c", _COMPILE], env=env, capture_output=True, text=True, check=True
        )
        assert "rror" not in out.stderr, out.stderr
        seconds, hits = out.stdout.split()
        found.append((float(seconds), int(hits)))
    (first, no_hits), (second, hits) = found
    assert no_hits == 0 and hits > 0
    assert second < first / 2

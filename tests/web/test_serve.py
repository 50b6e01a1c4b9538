"""`openseg serve` before it serves: mistakes of the person who starts it make one line."""

import builtins
import os
import signal
import socket

import pytest

from openseg_jax.cli.main import main
from openseg_jax.errors import UserError
from openseg_jax.web import server
from openseg_jax.web.server import Options, free_port


def fails(capsys, *words):
    assert main(["serve", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "99999"], "--port: expected 0 to 65535, got 99999"),
        (["--port", "x"], "--port"),
        (["--queue", "0"], "--queue: expected at least 1, got 0"),
        (["--at-once", "-1"], "--at-once: expected at least 1"),
        (["--max-upload-mb", "0"], "--max-upload-mb: expected more than 0"),
        (["--max-megapixels", "-1"], "--max-megapixels: expected more than 0"),
        (["--max-labels", "0"], "--max-labels: expected more than 0"),
        (["--max-side", "0"], "--max-side: expected more than 0"),
        (["--max-upload-mb", "nan"], "--max-upload-mb: expected more than 0"),
        (["--max-upload-mb", "inf"], "--max-upload-mb: expected more than 0 and finite, got inf"),
        (["--hosst", "x"], "did you mean --host?"),
        (["photo.jpg"], "unknown argument 'photo.jpg'"),
    ],
)
def test_bad_arguments(capsys, words, message):
    assert message in fails(capsys, *words)


def test_gradio_is_asked_for_by_its_command(capsys, monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "gradio":
            raise ImportError("No module named 'gradio'")
        return real(name, *args, **kwargs)

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install 'openseg_jax[web]'" in fails(capsys, "--port", "0")
    assert not list(tmp_path.iterdir())


def test_ended_while_it_loads_it_leaves_no_folder(monkeypatch, tmp_path):
    pytest.importorskip("gradio", reason="pip install 'openseg_jax[web]'")
    # Another signal stands in: before the handler is ours, this one would end the tests.
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    monkeypatch.setattr(signal, "SIGTERM", signal.SIGUSR1)

    def slow(options, folder):
        (folder / "upload").write_text("x")
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(server, "_launch", slow)
    monkeypatch.setattr(server, "_environment", lambda folder: None)
    with pytest.raises(SystemExit) as left:
        server.serve(Options(), ready=lambda url: None)
    assert left.value.code == 0 and not list(tmp_path.iterdir())
    assert signal.signal(signal.SIGUSR1, before) == signal.SIG_IGN


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port} .*--port 0"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", 0) > 0


def test_a_host_of_another_machine():
    with pytest.raises(UserError, match=r"cannot listen on 192\.0\.2\.1:7860"):
        free_port("192.0.2.1", 7860)
    with pytest.raises(UserError, match="cannot listen on xxxx"):
        free_port("x" * 70, 0)  # no name of a host


def test_the_page_is_for_this_machine_unless_told_otherwise():
    assert Options().host == "127.0.0.1"

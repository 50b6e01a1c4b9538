"""`openseg plan`: mistakes are one line, refusals an answer with code 3."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from openseg_jax.cli import plan
from openseg_jax.cli.main import main
from openseg_jax.errors import UserError
from openseg_jax.plan.topology import parse


@pytest.fixture(autouse=True)
def same_environment():
    """The verb sets variables for its own process; other tests must not see them."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--config", "miniature_clip:tiny"], "--topologies"),
        (["--topology", "h100:8"], "--config"),
        (["--topology", "h100:8", "--config", "miniature_clip", "--inference", "car"], "give one"),
        (["--topology", "v5e-250", "--config", "miniature_clip"], "v5e-256"),
        (["--topology", "h100:8", "--config", "miniature_klip"], "miniature_clip"),
        (["--topology", "h100:1", "--config", "miniature_clip", "--batch", "0"], "1 or more"),
        (["--topology", "h100:1", "--config", "miniature_clip", "--mesh", "fdsp=2"], "fsdp"),
        (["--topology", "h100:1", "--config", "miniature_clip", "--mesh", "fsdp=x"], "fsdp=4"),
        (["--topology", "h100:1", "--inference", "carr"], "car"),
        (["--topology", "h100:1", "--inference", "car", "--set", "classes=many"], "int"),
        (["--topology", "h100:1", "--inference", "segclip", "--set", "height=0"], "1 or more"),
        (["--topology", "h100:1", "--inference", "segclip", "--batch", "0"], "1 or more"),
        (
            ["--topology", "h100:1", "--config", "miniature_clip:tiny", "--set", "init=nope"],
            "ViT-B-16",
        ),
    ],
)
def test_mistakes_are_one_line(words, hint, capsys):
    assert main(["plan", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and hint in said


def test_short_names_are_listed(capsys):
    assert main(["plan", "--topologies"]) == 0
    assert "v4-512       v4:4x8x8" in capsys.readouterr().out


def test_without_libtpu_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["plan", "--topology", "v5e-16", "--config", "miniature_clip:tiny"]) == 2
    assert "pip install -e '.[tpu-plan]'" in capsys.readouterr().err


def test_the_environment_is_set_before_jax_starts(monkeypatch):
    for name in ("XLA_FLAGS", *plan._TPU):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    plan.prepare(parse("v5e-16"))
    assert os.environ["TPU_SKIP_MDS_QUERY"] == "1"
    assert os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "1"
    plan.prepare(parse("a100:8x4"))
    assert os.environ["XLA_FLAGS"] == "--xla_force_host_platform_device_count=32"


def test_a_mesh_is_read():
    assert plan.parse_mesh("fsdp=4") == {"data": -1, "fsdp": 4, "tensor": 1}
    assert plan.parse_mesh("data=2,tensor=8") == {"data": 2, "fsdp": 1, "tensor": 8}
    with pytest.raises(UserError, match="fsdp"):
        plan.parse_mesh("fspd=2")


def run(*words: str, timeout: int = 900) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "openseg_jax.cli.main", "plan", *words],
        capture_output=True, text=True, check=False, timeout=timeout,
        env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
    )  # fmt: skip


@pytest.mark.slow
def test_eight_gpus_by_analysis(tmp_path):
    file = tmp_path / "plan.json"
    done = run(
        "--config", "miniature_clip:tiny", "--topology", "h100:8", "--batch", "64", "--no-search",
        "--json", str(file),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "an estimate" in done.stdout and "TFLOP/s" in done.stdout
    numbers = json.loads(file.read_text(encoding="utf-8"))
    assert numbers["devices"] == 8 and numbers["estimate"]
    assert numbers["flops"] * 8 == pytest.approx(numbers["flops_traced_all_devices"], rel=0.05)
    assert sum(numbers["sent_bytes"].values()) > 0


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_an_answer():
    done = run(
        "--config", "miniature_clip:tiny", "--topology", "a100:1", "--batch", "40000000",
        "--no-search",
    )  # fmt: skip
    assert done.returncode == plan.DOES_NOT_FIT, done.stderr
    assert "DOES NOT FIT" in done.stdout and "what to change" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("method", ["clip_dense", "segclip"])
def test_inference_is_planned_without_weights(method):
    done = run(
        "--inference", method, "--topology", "h100:1", "--set", "model=ViT-B-32", "--set",
        "height=224", "--set", "width=224",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ": fits" in done.stdout and "exchange nothing" in done.stdout

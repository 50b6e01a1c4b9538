"""The compiler for TPUs itself, where it is installed: no TPU is needed.

pip install -e '.[tpu-plan]' && pytest -m tpu_backend tests/plan
"""

from __future__ import annotations

import importlib.util
import json

import pytest

from tests.cli.test_plan import run

pytestmark = [
    pytest.mark.tpu_backend,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="libtpu is not installed; pip install -e '.[tpu-plan]' && pytest -m tpu_backend",
    ),
]


@pytest.mark.parametrize("topology", ["v4-8", "v5e:2x2", "v5p-8", "v6e:2x2", "tpu7x-8"])
def test_a_training_is_compiled_for_each_kind(topology, tmp_path):
    file = tmp_path / "plan.json"
    done = run(
        "--config", "miniature_clip:tiny", "--topology", topology, "--batch", "64", "--no-search",
        "--set", "scan=True", "--json", str(file),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ": fits" in done.stdout
    numbers = json.loads(file.read_text(encoding="utf-8"))
    devices = numbers["devices"]
    assert numbers["flops"] * devices == pytest.approx(
        numbers["flops_traced_all_devices"], rel=0.05
    )
    # All that the compiler counts is there, and the state is a part of the arguments.
    assert numbers["memory"]["arguments"] >= numbers["state_bytes"]
    gradients = 2 * (devices - 1) / devices * numbers["experiment"]["gradient_bytes"]
    assert sum(numbers["sent_bytes"].values()) > 0.9 * gradients


def test_too_large_a_batch_is_an_answer():
    done = run(
        "--config", "miniature_clip:tiny", "--topology", "v5e:2x2", "--batch", "4000000",
        "--no-search",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "DOES NOT FIT" in done.stdout and "what to change" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_an_unknown_slice_is_a_mistake():
    done = run("--config", "miniature_clip:tiny", "--topology", "v5e:3x3")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "v5e:3x3" in done.stderr


def test_the_largest_batch_is_compiled():
    done = run("--config", "miniature_clip:tiny", "--topology", "v5e:2x2", "--batch", "4096")
    assert done.returncode == 0, done.stderr
    assert "largest batch that fits" in done.stdout and "compiled at that size" in done.stdout

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.train import recorder as module
from openseg_jax.train.recorder import Recorder

STEP = jax.make_jaxpr(jnp.dot)(jnp.ones((3, 3)), jnp.ones((3, 3)))  # 2·27 FLOPs


class Diverged(Exception):
    outcome = "diverged"


def _recorder(workdir, **more):
    return Recorder(
        workdir, steps=4, done=0, examples=6, rate=lambda i: 0.1 * i, show=False, **more
    )


def _metrics(loss):
    one = jnp.ones(())
    return {"loss": (jnp.float32(loss), one), "finite": (one, one)}


def _rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_is_recorded(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(module, "peak_flops", lambda kind: 100.0)
    monkeypatch.setattr(
        module, "device_memory", lambda: {"device_memory_peak": 3.0, "device_memory_limit": 4.0}
    )
    with _recorder(tmp_path, facts={"name": "toy", "steps": 4}) as recorder:
        recorder.cost(STEP)
        recorder.add(1, _metrics(3.0))
        recorder.add(2, _metrics(1.0))
        recorder.waited(0.5)
        recorder.waited(0.25)
        recorder.leave_out(2.0)  # a profile was written
        now[0] = 5.0
        means = recorder.record(2, skipped=1.0)
        recorder.scalars(2, {"zero_shot/top1": 0.5})
        now[0] = 9.0
        recorder.waited(4.0)
        recorder.restart_clock()  # what a checkpoint took is nobody's
        recorder.add(3, _metrics(1.0))
        now[0] = 10.0
        assert recorder.record(3)["input_wait"] == 0.0
        recorder.show(3, {"some": np.zeros((1, 4, 4, 3), np.uint8)}, {"spread": np.arange(3.0)})
    devices = module.jax.device_count()
    assert means["loss"] == 2.0 and means["step_seconds"] == 1.5 and means["input_wait"] == 0.25
    assert means["examples_per_second"] == 4.0
    assert means["examples_per_second_per_device"] == 4.0 / devices
    assert means["utilisation"] == pytest.approx(54 / 1.5 / 100 / devices)
    assert means["device_memory_peak"] == 3.0 and means["skipped"] == 1.0
    assert means["learning_rate"] == pytest.approx(0.1) and means["host_memory"] > 0
    rows = _rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [2, 2, 3, 3]
    assert rows[1]["zero_shot/top1"] == 0.5 and rows[3]["spread/p50"] == 1.0
    text = (tmp_path / "summary.md").read_text()
    assert "| attention | auto: XLA's products |" in text
    assert text.startswith("# toy: stopped at step 3 of 4") and "zero_shot/top1" in text


def test_no_utilisation_is_claimed_without_a_peak(tmp_path):
    with _recorder(tmp_path) as recorder:
        recorder.cost(STEP)
        recorder.add(1, _metrics(3.0))
        if module.peak_flops(module.jax.devices()[0].device_kind) is None:
            assert "utilisation" not in recorder.record(1)


@pytest.mark.parametrize(
    ("error", "said"), [(Diverged("x"), "diverged"), (OSError("disk"), "failed (OSError)")]
)
def test_the_summary_tells_how_a_run_ended(tmp_path, error, said):
    with pytest.raises(type(error)), _recorder(tmp_path) as recorder:
        recorder.add(1, _metrics(3.0))
        recorder.record(1)
        raise error
    assert _rows(tmp_path / "runs.jsonl")[-1]["outcome"] == said
    assert said in (tmp_path / "summary.md").read_text()

import json

import pytest

from openseg_jax.cli.main import main
from openseg_jax.errors import UserError
from openseg_jax.train.summary import sparkline, summarize, write_summary

ABOUT = {
    "name": "toy", "task": "clip", "steps": 40, "batch_size": 8, "dtype": "float32",
    "parameters": 1234, "trained": 34, "mesh": {"data": 2}, "devices": 2, "device_kind": "cpu",
    "versions": {"jax": "9.9"}, "commit": "abc with changes",
}  # fmt: skip


def _write(path, rows, tail=""):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)


def _record(step, time, loss, rate, **more):
    return {
        "step": step, "time": time, "loss": loss, "finite": 1.0, "examples_per_second": rate,
        "examples_per_second_per_device": rate / 2, "step_seconds": 8 / rate, "input_wait": 0.3,
        "host_memory": 1.5, **more,
    }  # fmt: skip


@pytest.fixture
def resumed(tmp_path):
    """A run that was killed after step 30, resumed at 20, and finished."""
    _write(
        tmp_path / "runs.jsonl",
        [
            {"event": "start", "time": 0.0, "step": 0, **ABOUT},
            {"event": "cost", "time": 0.5, "step": 1, "step_flops": 2e12},
            {"event": "start", "time": 100.0, "step": 20, **ABOUT},
            {"event": "end", "time": 130.0, "step": 40, "outcome": "finished"},
        ],
    )
    rows = [
        _record(1, 5.0, 8.0, 0.1),
        _record(10, 10.0, 4.0, 100.0),
        _record(20, 20.0, 3.0, 110.0),
        {"step": 20, "time": 21.0, "zero_shot": 0.5},
        _record(30, 30.0, 99.0, 1e6),
        _record(21, 105.0, 2.5, 0.2),
        _record(30, 110.0, 2.0, 120.0, skipped=3.0),
        _record(40, 125.0, 1.0, 130.0, skipped=3.0),
        {"step": 40, "time": 126.0, "zero_shot": 0.4},
    ]
    _write(tmp_path / "metrics.jsonl", rows, tail='{"step": 41, "ti')
    (tmp_path / "checkpoints" / "40").mkdir(parents=True)
    return tmp_path


def test_summary_of_a_resumed_run(resumed):
    text = summarize(resumed)
    assert text.startswith("# toy: finished at step 40 of 40\n")
    assert "| parameters | 1,234, 34 of them trained |" in text
    assert "| time | 1 min 0 s, resumed at step 20 |" in text  # 0 to 30 and 100 to 130 seconds
    # neither records with compiling nor the step 30 that was done again
    assert "| throughput | 115 examples/s (median; p10 103, p90 127) |" in text
    assert "2 TFLOP a step; none is claimed for this device" in text
    assert "8 → 1" in text and "99" not in text
    assert "| zero_shot | 0.4 (step 40) | 0.5 (step 20) | 0.4 (step 40) |" in text
    assert "Waited for input 30% of the time" in text and "3 broken pictures" in text
    assert "step 40.\n" in text and "jax 9.9; commit abc with changes" in text


def test_summary_of_what_still_runs_or_was_killed(resumed, capsys):
    lines = (resumed / "runs.jsonl").read_text().splitlines(keepends=True)
    (resumed / "runs.jsonl").write_text("".join(lines[:-1]))
    assert main(["summary", str(resumed)]) == 0
    assert "# toy: running, or killed, at step 40 of 40" in capsys.readouterr().out


def test_summary_says_why_a_run_diverged(resumed):
    with (resumed / "runs.jsonl").open("a") as file:
        file.write(json.dumps({"event": "start", "time": 200.0, "step": 40, **ABOUT}) + "\n")
        file.write(json.dumps({"event": "end", "time": 220.0, "step": 41, "outcome": "diverged"}))
    with (resumed / "metrics.jsonl").open("a") as file:
        row = _record(41, 210.0, float("nan"), 1.0, finite=0.0, utilisation=0.5,
                      device_memory_peak=15.9, device_memory_limit=16.0)  # fmt: skip
        file.write("\n" + json.dumps(row) + "\n")
    write_summary(resumed)
    text = (resumed / "summary.md").read_text()
    assert "diverged at step 41" in text and "was not finite" in text
    assert "15.90 GiB at the peak of 16.00" in text and "99% of the device memory" in text
    assert [p.name for p in resumed.glob(".summary*")] == []


def test_summary_of_a_folder_without_training(tmp_path):
    with pytest.raises(UserError, match="expected a training's folder"):
        summarize(tmp_path)


def test_sparkline():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([3.0, 3.0, float("nan")]) == "▁▁"
    assert len(sparkline(range(1000))) == 40 and sparkline([]) == ""

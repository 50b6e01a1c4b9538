import importlib.util
import json

import pytest

from openseg_jax.train.logging import JsonLinesWriter, ProgressBar, SilentWriter, make_writers


def test_json_lines_continue_a_file(tmp_path):
    for step in (1, 2):
        writer = JsonLinesWriter(tmp_path / "sub" / "metrics.jsonl")
        writer.write_scalars(step, {"loss": 0.5 * step})
        writer.flush()
        writer.close()
    rows = [json.loads(line) for line in (tmp_path / "sub/metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 0.5), (2, 1.0)]


def test_only_the_first_process_writes(tmp_path):
    (writer,) = make_writers(tmp_path, first=False)
    assert isinstance(writer, SilentWriter)
    writer.write_scalars(1, {"loss": 1.0})
    writer.flush()
    writer.close()
    assert not list(tmp_path.iterdir())


def test_tensorboard_is_optional(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "tensorflow" else find(n)
    )
    (writer,) = make_writers(tmp_path)
    writer.close()
    assert (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("show", [True, False])
def test_progress_off_a_terminal_says_one_line_a_record(show, caplog):
    caplog.set_level("INFO", logger="absl")
    with ProgressBar(10, 2, show=show) as bar:
        bar.advance(3)
        bar.record(4, {"loss": 1.25, "examples_per_second": 33.0})
    lines = [r.getMessage() for r in caplog.records if "step 4/10" in r.getMessage()]
    assert lines == (["step 4/10  loss 1.2500  33 examples/s"] if show else [])

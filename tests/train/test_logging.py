import importlib.util
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from openseg_jax.errors import UserError
from openseg_jax.train.logging import (
    JsonLinesWriter,
    PictureWriter,
    ProgressBar,
    check_writer,
    make_writers,
)
from openseg_jax.train.tensorboard import TensorBoardWriter


def test_json_lines_continue_a_file(tmp_path):
    for step in (1, 2):
        writer = JsonLinesWriter(tmp_path / "sub" / "metrics.jsonl")
        writer.write_scalars(step, {"loss": 0.5 * step})
        writer.flush()
        writer.close()
    rows = [json.loads(line) for line in (tmp_path / "sub/metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 0.5), (2, 1.0)]


def test_only_the_first_process_writes(tmp_path):
    assert make_writers(tmp_path, first=False) == []
    assert not list(tmp_path.iterdir())


def _show(writers):
    """Writes one of each kind to all writers."""
    pictures = np.zeros((2, 4, 6, 3), np.uint8)
    pictures[1, ..., 0] = 200
    for writer in writers:
        writer.write_scalars(3, {"loss": 0.25, "input/wait": 1})
        writer.write_images(3, {"a/b": pictures})
        writer.write_histograms(3, {"shares": np.array([0, 1, 1, 2, np.nan]), "none": np.ones(0)})
        writer.flush()
        writer.close()
    return pictures


def test_tensorboard_is_optional_and_pictures_then_become_files(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "tensorboard" else find(n)
    )
    writers = make_writers(tmp_path)
    assert [type(w) for w in writers] == [JsonLinesWriter, PictureWriter]
    pictures = _show(writers)
    (path,) = (tmp_path / "pictures").iterdir()
    assert path.name == "a_b_00000003.png"
    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.concatenate(list(pictures), 1))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[1]["shares/p50"] == 1.0 and "none/p50" not in rows[1]


def test_tensorboard_reads_what_was_written(tmp_path):
    loader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_file_loader",
        reason="needs tensorboard: pip install openseg_jax[train]",
    )
    writers = make_writers(tmp_path)
    assert type(writers[1]) is TensorBoardWriter
    pictures = _show(writers)
    (path,) = tmp_path.glob("events.out.tfevents.*")
    read = list(loader.LegacyEventFileLoader(str(path)).Load())
    assert read[0].file_version == "brain.Event:2" and {e.step for e in read[1:]} == {3}
    values = {v.tag: v for event in read for v in event.summary.value}
    assert set(values) == {"loss", "input/wait", "a/b/0", "a/b/1", "shares"}
    assert values["loss"].simple_value == 0.25
    decoded = Image.open(io.BytesIO(values["a/b/1"].image.encoded_image_string))
    np.testing.assert_array_equal(np.asarray(decoded), pictures[1])
    spread = values["shares"].histo
    assert (spread.num, spread.min, spread.max, spread.sum) == (4, 0, 2, 4)
    assert sum(spread.bucket) == 4 and len(spread.bucket) == len(spread.bucket_limit)
    # What TensorBoard itself shows is read by its newer loader, which converts all of these.
    shown = list(loader.EventFileLoader(str(path)).Load())
    kinds = {
        v.tag: v.metadata.plugin_data.plugin_name for event in shown for v in event.summary.value
    }
    assert kinds["loss"] == "scalars" and kinds["shares"] == "histograms"
    assert kinds["a/b/0"] == "images"


def test_clu_writes_the_same_tags(tmp_path):
    pytest.importorskip("tensorflow", reason="clu's writers need it: pip install tensorflow-cpu")
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    tags = {}
    for kind in ("clu", "tensorboard"):
        _show(make_writers(tmp_path / kind, kind))
        (path,) = (tmp_path / kind).glob("events.out.tfevents.*")
        shown = loader.EventFileLoader(str(path)).Load()
        tags[kind] = {v.tag.split("/0")[0].split("/1")[0] for e in shown for v in e.summary.value}
    assert tags["tensorboard"] <= tags["clu"] | {"none"}


def test_a_writer_says_what_it_lacks(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"expected clu and tensorflow .*pip install"):
        check_writer("clu")
    with pytest.raises(UserError, match="did you mean 'clu'"):
        check_writer("cul")
    check_writer("auto")


def test_writing_for_tensorboard_imports_no_tensorflow(tmp_path):
    pytest.importorskip("tensorboard", reason="needs: pip install openseg_jax[train]")
    code = (
        "import sys; from openseg_jax.train.logging import make_writers; "
        f"[w.write_scalars(1, {{'x': 1}}) for w in make_writers({str(tmp_path)!r})]; "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("show", [True, False])
def test_progress_off_a_terminal_says_one_line_a_record(show, caplog):
    caplog.set_level("INFO", logger="absl")
    with ProgressBar(10, 2, show=show) as bar:
        bar.advance(3)
        bar.record(4, {"loss": 1.25, "examples_per_second": 33.0})
    lines = [r.getMessage() for r in caplog.records if "step 4/10" in r.getMessage()]
    assert lines == (["step 4/10  loss 1.2500  33 examples/s"] if show else [])

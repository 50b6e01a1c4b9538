"""The copy of a work folder in a bucket, with a folder for the bucket."""

import socket
import subprocess
import sys

import fsspec
import pytest

from launch import mirror
from launch.run import ROOT

# Buckets have no folders that would have to be made first.
FS = fsspec.filesystem("file", auto_mkdir=True)


@pytest.fixture
def there(tmp_path):
    (tmp_path / "bucket" / "run").mkdir(parents=True)
    return tmp_path / "bucket" / "run"


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_new_machine_goes_on_where_the_old_one_was(tmp_path, there):
    old, new = tmp_path / "old", tmp_path / "new"
    write(old, metrics_DOT_jsonl="1\n", model__a="w", checkpoints__7="c", _DOT_lock="")
    assert mirror.keep(old, str(there), FS) == 2
    assert not (there / "checkpoints").exists() and not (there / ".lock").exists()
    write(there, checkpoints__7="c", logs__host="l")
    assert mirror.fetch(new, str(there), FS) == 2
    assert (new / "metrics.jsonl").read_text() == "1\n" and (new / "model" / "a").exists()
    assert not (new / "checkpoints").exists() and not (new / "logs").exists()
    # A folder that is there already is the newer one.
    write(there, metrics_DOT_jsonl="0\n")
    assert mirror.fetch(new, str(there), FS) == 0
    assert (new / "metrics.jsonl").read_text() == "1\n"


def test_only_what_a_host_changed_is_sent(tmp_path, there):
    write(there, metrics_DOT_jsonl="1\n")
    first, second = tmp_path / "first", tmp_path / "second"
    for host in (first, second):
        mirror.fetch(host, str(there), FS)
    write(first, metrics_DOT_jsonl="1\n2\n")
    assert mirror.keep(first, str(there), FS) == 1
    # The second host still has the old file, and must not undo the first one's.
    assert mirror.keep(second, str(there), FS) == 0
    assert (there / "metrics.jsonl").read_text() == "1\n2\n"
    assert mirror.keep(first, str(there), FS) == 0


def test_logs_are_kept_by_host(tmp_path, there):
    write(tmp_path, log_DOT_txt="hello")
    mirror.keep(tmp_path / "nothing", str(there), FS, tmp_path / "log.txt")
    assert (there / "logs" / f"{socket.gethostname()}.txt").read_text() == "hello"


def test_nothing_there_yet_is_fine(tmp_path):
    assert mirror.fetch(tmp_path / "work", str(tmp_path / "none"), FS) == 0
    assert (tmp_path / "work").is_dir()


def test_a_bucket_out_of_reach_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch" / "mirror.py"), "fetch", "work", "no-such://b/r"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("launch: no-such://b/r: cannot fetch (")

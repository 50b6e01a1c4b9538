"""The log: whole lines only, nothing twice, other settings apart, one writer at a time."""

import json
import types

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.eval.record import Log, decide_key, state_of, to_cells, total

A = np.array([[3, 0], [1, 2]], np.int64)


def test_cells_rebuild_the_matrix():
    matrix = np.array([[0, 2**40, 0], [0, 0, 5], [0, 0, 0]])
    np.testing.assert_array_equal(total([to_cells(matrix)], 3), matrix)
    assert to_cells(np.zeros((3, 3), int)) == [[], []]


def test_what_is_counted_is_there_again(tmp_path):
    log = Log(tmp_path, {"x": 1})
    log.add("a", A)
    log.add("a", A * 100)
    log.close()
    again = Log(tmp_path, {"x": 1})
    np.testing.assert_array_equal(total([again.found["a"]], 2), A)
    again.close()
    assert Log(None, {"x": 1}).found == {}


def test_a_mended_file_changes_the_state(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(b"1")
    items = [types.SimpleNamespace(name="a", image=file, labels=file)]
    before = state_of(items)
    assert state_of(items) == before
    file.write_bytes(b"22")
    assert state_of(items) != before


@pytest.mark.parametrize("rest", [b'{"name":"b","cells"', b"\x00\x00\x00", b'{"name":"b"}\n'])
def test_a_line_cut_short_is_taken_off(tmp_path, rest):
    log = Log(tmp_path, {})
    log.add("a", A)
    path = log.path
    log.close()
    whole = path.read_bytes()
    path.write_bytes(whole + rest)
    again = Log(tmp_path, {})
    assert set(again.found) == {"a"} and path.read_bytes() == whole
    again.add("b", A)
    again.close()
    assert [json.loads(x).get("name") for x in path.read_text().splitlines()] == [None, "a", "b"]


def test_what_decides_names_the_file(tmp_path):
    for decides in ({"x": 1, "y": (1, 2)}, {"x": 2, "y": (1, 2)}):
        log = Log(tmp_path, decides)
        log.add("a", A)
        log.close()
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    assert decide_key({"x": 1, "y": 2}) == decide_key({"y": 2, "x": 1})


def test_all_processes_read_what_each_has_written(tmp_path):
    for process, name in enumerate("ab"):
        log = Log(tmp_path, {}, process)
        log.add(name, A)
        log.close()
    third = Log(tmp_path, {})
    assert set(third.found) == {"a", "b"}
    third.close()


def test_two_runs_do_not_write_at_once(tmp_path):
    log = Log(tmp_path, {})
    with pytest.raises(UserError, match="another run is at work"):
        Log(tmp_path, {})
    log.close()
    Log(tmp_path, {}).close()


def test_a_folder_that_cannot_be_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        Log(tmp_path / "file" / "below", {})


def test_a_full_device_is_one_message(tmp_path):
    log = Log(tmp_path, {})
    with open("/dev/full", "wb", buffering=0) as full:
        own, log._file = log._file, full
        with pytest.raises(UserError, match="No space left"):
            log.add("a", A)
        log._file = own
    assert "a" not in log.found
    log.close()

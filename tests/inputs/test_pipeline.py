import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.inputs import pipeline
from openseg_jax.inputs.image_text import ImageText, caption_hash
from openseg_jax.inputs.pipeline import batch_spec, batches


class Numbers:
    """Example i is the number i."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {"x": np.int32(index)}


def _take(stream, count):
    return [next(stream)["x"].tolist() for _ in range(count)]


def test_order_is_fixed_by_the_seed():
    first, again, other = (_take(batches(Numbers(100), 4, seed=seed), 5) for seed in (1, 1, 2))
    assert first == again != other


def test_an_epoch_visits_each_example_once_and_epochs_differ():
    epochs = _take(batches(Numbers(12), 12), 2)
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 2
    assert epochs[0] != epochs[1]


def test_streams_can_keep_their_order():
    assert _take(batches(Numbers(100), 3, shuffle=False), 2) == [[0, 1, 2], [3, 4, 5]]


def test_processes_share_the_batches_that_one_would_load():
    whole = _take(batches(Numbers(21), 8), 5)
    for rows in ([[0, 1, 2, 3], [4, 5, 6, 7]], [[0, 1], [4, 5], [2, 3], [6, 7]], [[7, 1], [0]]):
        shares = [_take(batches(Numbers(21), 8, rows=mine), 5) for mine in rows]
        for mine, share in zip(rows, shares, strict=True):
            assert share == [[batch[row] for row in mine] for batch in whole]


def test_any_share_of_any_batch_goes_on_at_a_position():
    stream = batches(Numbers(21), 8)
    _take(stream, 3)
    state = stream.get_state()
    assert state == {"examples": 24, "of": 21}
    want = np.ravel(_take(stream, 6))
    halves = [batches(Numbers(21), 8, rows=rows) for rows in (range(4), range(4, 8))]
    smaller = batches(Numbers(21), 6, threads=1)
    for other in (*halves, smaller):
        other.set_state(state)
    np.testing.assert_array_equal(np.hstack([_take(half, 6) for half in halves]).ravel(), want)
    np.testing.assert_array_equal(np.ravel(_take(smaller, 8)), want)
    # going back is moving, too: the batch after a position can be had again
    stream.set_state(state)
    assert _take(stream, 1)[0] == want[:8].tolist()


def test_data_that_grew_is_said(caplog):
    stream = batches(Numbers(22), 8)
    stream.set_state({"examples": 24, "of": 21})
    assert "21 examples, now 22" in caplog.text


@pytest.mark.parametrize("threads", [1, 4])
def test_state_continues_where_it_stopped(threads):
    stream = batches(Numbers(50), 4, threads=threads)
    _take(stream, 5)
    state = stream.get_state()
    want = _take(stream, 10)
    resumed = batches(Numbers(50), 4, threads=threads)
    resumed.set_state(state)
    assert _take(resumed, 10) == want
    # the wrong variant: a stream that was not told its position
    assert _take(batches(Numbers(50), 4, threads=threads), 10) != want


def test_threads_change_nothing():
    assert _take(batches(Numbers(50), 4, threads=1), 8) == _take(
        batches(Numbers(50), 4, threads=4, prefetch=7), 8
    )


def test_errors():
    with pytest.raises(UserError, match="batch_size"):
        batches(Numbers(10), 0)
    with pytest.raises(UserError, match="input: expected examples"):
        batches(Numbers(0), 4)


def test_image_text_examples():
    def example(index):
        return np.full((2, 2, 3), index, np.uint8), f"number {index % 2}"

    def encode(texts):
        return np.array([[len(t), ord(t[-1]), 0] for t in texts], np.int32)

    source = ImageText(example, encode, 6)
    assert len(source) == 6 and source[3]["image"][0, 0, 0] == 3
    assert source[1]["caption"] == source[3]["caption"] != source[2]["caption"]
    spec = batch_spec(source, 5)
    assert {n: (s.shape, str(s.dtype)) for n, s in spec.items()} == {
        "image": ((5, 2, 2, 3), "uint8"),
        "ids": ((5, 3), "int32"),
        "caption": ((5,), "int32"),
    }
    batch = next(batches(source, 3, shuffle=False))
    assert batch["image"].shape == (3, 2, 2, 3) and batch["caption"].dtype == np.int32


def test_caption_hash_is_the_same_everywhere():
    row = np.array([1, 2, 3], np.int64)
    assert caption_hash(row) == caption_hash(row.astype(np.int32)) == np.int32(819995283)
    assert caption_hash(row) != caption_hash(row[::-1]) and caption_hash(row) >= 0


@pytest.mark.slow
def test_worker_processes_change_neither_order_nor_resuming():
    stream = batches(Numbers(50), 4, workers=2, threads=1)
    want = _take(batches(Numbers(50), 4), 8)
    assert _take(stream, 3) == want[:3]
    resumed = batches(Numbers(50), 4, workers=3, threads=1)
    resumed.set_state(stream.get_state())
    assert _take(resumed, 5) == want[3:]


@pytest.mark.slow
def test_worker_processes_outlive_signals(monkeypatch):
    monkeypatch.setattr(pipeline, "_GRACE", 3600.0)  # however slow this machine is
    stream = batches(Numbers(50), 4, workers=2, threads=1)
    want = _take(batches(Numbers(50), 4), 60)
    first = []
    taker = threading.Thread(target=lambda: first.extend(_take(stream, 1)))
    taker.start()
    workers = []
    end = time.monotonic() + 600
    while len(workers) < 2:  # signals reach them while they are born …
        assert time.monotonic() < end
        for worker in set(multiprocessing.active_children()) - set(workers):
            workers.append(worker)
            os.kill(worker.pid, signal.SIGINT)
            os.kill(worker.pid, signal.SIGTERM)
    taker.join()
    assert first == want[:1]
    for worker in workers:  # … and while they work
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker.pid, number)
    assert _take(stream, 59) == want[1:]
    stream.close()
    for worker in workers:
        worker.join(600)
        assert not worker.is_alive()


_LOADER = """
import multiprocessing
from openseg_jax.inputs.pipeline import batches
from tests.inputs.test_pipeline import Numbers

if __name__ == "__main__":
    stream = batches(Numbers(50), 4, workers=2, threads=1)
    next(stream)
    print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
    input()
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc; run it on Linux")
def test_worker_processes_end_with_the_one_they_load_for(tmp_path):
    (tmp_path / "loader.py").write_text(_LOADER)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "loader.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env=os.environ | {"PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert parent.stdout is not None
    workers = parent.stdout.readline().split()
    assert len(workers) == 2 and all(os.path.exists(f"/proc/{worker}") for worker in workers)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 600

    def lives(worker):
        try:
            with open(f"/proc/{worker}/stat") as file:
                return file.read().rsplit(")")[-1].split()[0] != "Z"
        except OSError:
            return False

    while any(map(lives, workers)):
        assert time.monotonic() < end
        time.sleep(0.1)


class Epochs(Numbers):
    """Example i of epoch e is 100 e + i."""

    def at(self, index, epoch):
        return {"x": np.int32(100 * epoch + index)}


def test_sources_may_be_told_the_epoch():
    assert _take(batches(Epochs(4), 4, shuffle=False), 2) == [[0, 1, 2, 3], [100, 101, 102, 103]]
    rows = [row for i in (0, 1) for row in _take(batches(Epochs(4), 2, rows=[i]), 8)]
    assert sorted(np.ravel(rows)) == [100 * e + i for e in range(4) for i in range(4)]

import numpy as np
import pytest

from openseg_jax.errors import UserError
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


def test_shards_are_disjoint_and_complete():
    shards = [_take(batches(Numbers(24), 8, shard=i, shards=2), 3) for i in (0, 1)]
    seen = [{x for batch in shard for x in batch} for shard in shards]
    assert not seen[0] & seen[1] and seen[0] | seen[1] == set(range(24))
    assert len(shards[0][0]) == 4


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
        batches(Numbers(10), 3, shards=2)
    with pytest.raises(UserError, match="at least 4"):
        batches(Numbers(3), 4, shards=4)


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
    resumed = batches(Numbers(50), 4, workers=2, threads=1)
    resumed.set_state(stream.get_state())
    assert _take(resumed, 5) == want[3:]


class Epochs(Numbers):
    """Example i of epoch e is 100 e + i."""

    def at(self, index, epoch):
        return {"x": np.int32(100 * epoch + index)}


def test_sources_may_be_told_the_epoch():
    assert _take(batches(Epochs(4), 4, shuffle=False), 2) == [[0, 1, 2, 3], [100, 101, 102, 103]]
    rows = [row for i in (0, 1) for row in _take(batches(Epochs(4), 2, shard=i, shards=2), 8)]
    assert sorted(np.ravel(rows)) == [100 * e + i for e in range(4) for i in range(4)]

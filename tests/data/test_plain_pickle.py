"""Pickles of plain data are read; anything else is refused before it runs."""

import collections
import datetime
import os
import pickle

import pytest
from openseg_jax.data.prepare.plain_pickle import read_plain_pickle

from openseg_jax.errors import UserError

PLAIN = [{"id": 1, "text": "zebra – links", "box": (1.5, None, True), "set": {2}, "raw": b"x"}]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data(tmp_path, protocol):
    path = tmp_path / "refs.p"
    # Older protocols build sets and bytes by calling things, which is not needed here.
    data = (
        PLAIN if protocol > 3 else [{k: v for k, v in PLAIN[0].items() if k not in ("set", "raw")}]
    )
    path.write_bytes(pickle.dumps(data, protocol))
    assert read_plain_pickle(path) == data


def test_python_2(tmp_path):
    path = tmp_path / "refs.p"
    # As Python 2 wrote [{'raw': 'caf\xc3\xa9', 'n': 3L}] in protocol 0.
    path.write_bytes(b"(lp0\n(dp1\nS'raw'\np2\nS'caf\\xc3\\xa9'\np3\nsS'n'\np4\nL3L\nsa.")
    assert read_plain_pickle(path) == [{"raw": "café", "n": 3}]


class Call:
    def __init__(self, what, *args):
        self.call = what, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "make",
    [
        lambda mark: Call(os.system, f"touch {mark}"),
        lambda mark: [PLAIN, {"deep": Call(open, str(mark), "w")}],
        lambda mark: Call(eval, f"open({str(mark)!r}, 'w')"),
        lambda mark: datetime.date(2020, 1, 1),
        lambda mark: collections.OrderedDict(a=1),
    ],
    ids=["system", "deep", "eval", "date", "ordered"],
)
def test_anything_else_is_refused(tmp_path, make, protocol):
    path, mark = tmp_path / "refs.p", tmp_path / "mark"
    path.write_bytes(pickle.dumps(make(mark), protocol))
    with pytest.raises(UserError, match=r"refs\.p: refused: this pickle asks for \w+\.\w+"):
        read_plain_pickle(path)
    assert not mark.exists()


def test_the_refused_pickles_do_run_elsewhere(tmp_path):
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(Call(open, str(mark), "w")))
    assert mark.exists()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x04", pickle.dumps(PLAIN)[:-9]])
def test_damaged_files(tmp_path, data):
    path = tmp_path / "refs.p"
    path.write_bytes(data)
    with pytest.raises(UserError, match="found a damaged one"):
        read_plain_pickle(path)
    path.unlink()
    with pytest.raises(UserError, match="cannot read"):
        read_plain_pickle(path)

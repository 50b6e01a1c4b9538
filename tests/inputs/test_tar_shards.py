"""Shards as img2dataset writes them: found, indexed once, damaged ones reported."""

import os
import pickle

import numpy as np
import pytest
from absl import logging

from openseg_jax.errors import UserError
from openseg_jax.inputs import tar_shards
from openseg_jax.inputs.tar_shards import TarShards, build_index, expand_shards
from tests.inputs.captioned import pairs, write_shard


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "data"
    write_shard(folder / "00000.tar", pairs(4))
    write_shard(folder / "00001.tar", pairs(6)[4:], first=4, text=False)
    return folder


def test_pairs_by_index(shards):
    found = TarShards(shards)
    assert [found[i] for i in range(len(found))] == pairs(6)
    assert found.name(3).endswith("00000.tar: pair 3") and found.name(4).endswith(
        "00001.tar: pair 0"
    )
    assert pickle.loads(pickle.dumps(found))[5] == pairs(6)[5]
    assert found.problems == ()


def test_patterns(shards):
    names = [shards / "00000.tar", shards / "00001.tar"]
    for pattern in ("", "/*.tar", "/{00000..00001}.tar", "/0000{0,1}.tar", "/0000[01].tar"):
        assert expand_shards(f"{shards}{pattern}") == names
    assert expand_shards(names[1]) == names[1:]
    assert expand_shards(f"{names[1]}::{shards}/*0.tar") == names[::-1]
    with pytest.raises(UserError, match=r"no .*00002\.tar and 1 more"):
        expand_shards(f"{shards}/{{00000..00003}}.tar")
    with pytest.raises(UserError, match="got none"):
        expand_shards(f"{shards}/x*.tar")
    with pytest.raises(UserError, match="mount"):
        expand_shards("gs://bucket/{0..9}.tar")


def test_an_index_is_built_once_and_again_when_the_shard_changes(shards, monkeypatch):
    built = []

    def count(path):
        built.append(path.name)
        return build_index(path)

    monkeypatch.setattr(tar_shards, "build_index", count)
    TarShards(shards)
    assert len(built) == 2 and len(TarShards(shards)) == 6 and len(built) == 2
    write_shard(shards / "00001.tar", pairs(6)[3:], first=3)
    os.utime(shards / "00001.tar", ns=(1, 1))
    assert len(TarShards(shards)) == 7 and built[2:] == ["00001.tar"]
    (shards / "00000.tar.index.npz").write_bytes(b"half of it")
    assert len(TarShards(shards)) == 7 and built[3:] == ["00000.tar"]


def test_the_index_can_lie_elsewhere(shards, tmp_path):
    TarShards(shards, cache=str(tmp_path / "cache"))
    assert not list(shards.glob("*.npz")) and len(list((tmp_path / "cache").iterdir())) == 2


def test_an_index_that_cannot_be_kept_is_no_reason_to_stop(shards, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.WARNING)
    # Messages are limited in number for the whole process.
    monkeypatch.setattr(logging, "_log_counter_per_token", {})
    (tmp_path / "file").write_text("")
    assert len(TarShards(shards, cache=str(tmp_path / "file"))) == 6
    assert "input.cache" in caplog.text


@pytest.mark.parametrize("kind", ["cut", "cut_in_header", "overwritten", "text"])
def test_damaged_shards_are_reported_and_their_beginning_is_used(shards, kind, caplog):
    caplog.set_level(logging.WARNING)
    path = shards / "00000.tar"
    data = bytearray(path.read_bytes())
    starts = build_index(path).table[:, 0]
    if kind == "cut":
        data = data[: starts[2] + 10]
    elif kind == "cut_in_header":
        data = data[: starts[2] - 300]
    elif kind == "overwritten":
        data[starts[2] - 512 : starts[2]] = b"x" * 512
    else:
        data = bytearray(b"<html>not found</html>" * 100)
    path.write_bytes(bytes(data))
    found = TarShards(shards)
    kept = 0 if kind == "text" else 2
    assert len(found) == kept + 2 and found[kept] == pairs(6)[4]
    assert len(found.problems) == 1 and "00000.tar" in found.problems[0]
    assert "damaged or cut short" in caplog.text


def test_members_without_partner(tmp_path):
    path = tmp_path / "x.tar"
    write_shard(path, [(b"", "no picture"), *pairs(2)])
    with_empty = build_index(path).table
    assert with_empty[0, 1] == 0 and np.all(with_empty[1:, 1] > 0)


def test_shards_without_pictures(tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "x.tar", "w"):
        pass
    with pytest.raises(UserError, match=r"KEY\.jpg"):
        TarShards(tmp_path / "x.tar")


def test_captions_in_json():
    assert tar_shards._from_json('{"caption": "a"}') == "a"
    assert tar_shards._from_json('{"caption": null}') == tar_shards._from_json("[]") == ""
    assert tar_shards._from_json("{") == ""

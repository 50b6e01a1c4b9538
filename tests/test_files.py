"""Folders are replaced as a whole, or stay as they were."""

from __future__ import annotations

import os

import pytest

from openseg_jax.errors import UserError
from openseg_jax.files import atomic_folder


def test_a_folder_takes_the_place_of_another(tmp_path):
    for text in ("one", "two"):
        with atomic_folder(tmp_path / "x") as aside:
            (aside / text).write_text(text)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["two"]


@pytest.mark.parametrize("call", [1, 2])
def test_what_cannot_be_put_in_place_leaves_the_older_one(tmp_path, monkeypatch, call):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("mine")
    real, calls = os.replace, []

    def fails(source, target):
        calls.append(source)
        if len(calls) == call:
            raise OSError(16, "Device or resource busy")
        real(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(UserError, match="busy"), atomic_folder(tmp_path / "x") as aside:
        (aside / "new").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["mine"]

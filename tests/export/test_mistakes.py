"""Bad input to `openseg export` and to what it wrote: one line that says what to do."""

from __future__ import annotations

import dataclasses
import importlib.util
import json

import jax
import numpy as np
import pytest

from openseg_jax import export
from openseg_jax.cli.main import main
from openseg_jax.errors import UserError
from openseg_jax.export.calls import canvas_size, describe
from openseg_jax.export.programs import check_platforms
from openseg_jax.export.reading import Exported, Result
from openseg_jax.export.run import main as run_main
from openseg_jax.export.words import ExportError
from openseg_jax.methods.base import load_segmenter
from tests.export.exports import (
    exported_folder,  # noqa: F401
    needs_flatbuffers,
    own_folder,  # noqa: F401
    pictures,
    tiny_dense,  # noqa: F401
)


@needs_flatbuffers
@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--platforms", "cpu,gpu"], "gpu"),
        (["--platforms", ","], "cuda"),
        (["--size", "wide"], "512x512"),
        (["--size", "12x"], "512x512"),
        (["--set", "crf"], "KEY=VALUE"),
        (["--method", "carr"], "did you mean 'car'"),
        (["--model", "no-such-model"], "no-such-model"),
        (["--method", "clip_dense", "--set", "variannt=sclip"], "variant"),
        (["--method", "clip_dense", "--size", "0"], "at least 1 pixel"),
        (["--method", "clip_dense", "--size", "100000x100000"], "4096"),
        (["--method", "maft", "--set", "pad_to=32"], "pad_to=0"),
        (["--labels", " , "], "label"),
        (["--batch", "3"], "--batch"),
    ],
)
def test_mistakes_are_one_line(words, hint, capsys, tmp_path):
    assert main(["export", str(tmp_path / "out"), *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and hint in said
    assert not list(tmp_path.iterdir())


@needs_flatbuffers
def test_what_is_there_is_not_replaced(tiny_dense, tmp_path):  # noqa: F811
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for place in ("full", "file", "file/inside", "file/inside/deeper"):
        with pytest.raises(UserError, match="name another"):
            export.write(tiny_dense, tmp_path / place)
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


def test_without_flatbuffers_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"openseg_jax\[export\]"):
        check_platforms(["cpu"])


def test_sizes_are_rounded_up_to_whole_patches(tiny_dense):  # noqa: F811
    call = describe(tiny_dense)
    assert canvas_size(call, (33, 40)) == (40, 40)
    assert canvas_size(call, None) == (64, 64)
    short = dataclasses.replace(call, fit={**call.fit, "short_side": 60})
    assert canvas_size(short, None) == (80, 80)


def test_settings_that_cannot_leave_are_named(tiny_model):
    car = load_segmenter("car", str(tiny_model), char_bug=True, templates=())
    with pytest.raises(UserError, match="char_bug"):
        describe(car)
    with pytest.raises(UserError, match="segmenter"):
        describe(object())  # type: ignore[arg-type]


def test_region_proposals_become_an_input(tiny_model):
    call = describe(load_segmenter("maft", str(tiny_model), proposals="regions"))
    assert call.masks and "source" not in call.params
    assert call.most is None


@needs_flatbuffers
@pytest.mark.parametrize("name", ["params.safetensors", "segment.cpu.stablehlo", "classes.json"])
def test_damage_is_found_on_opening(own_folder, name):  # noqa: F811
    data = bytearray((own_folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (own_folder / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name}.*damaged"):
        export.load(own_folder)
    (own_folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}.*No such file"):
        export.load(own_folder)


def _edited(folder, **changes):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))
    return folder


@needs_flatbuffers
@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"version": 2}, "version 1, got 2"),
        ({"format": "other"}, "openseg export"),
        ({"programs": None}, "programs"),
        ({"files": {"a": 1}}, "manifest.json|No such file"),
    ],
)
def test_other_manifests_are_refused(own_folder, changes, hint):  # noqa: F811
    with pytest.raises(UserError, match=hint):
        export.load(_edited(own_folder, **changes))


def test_a_folder_of_something_else_is_refused(tmp_path, tiny_model):
    for folder in (tmp_path, tmp_path / "none", tiny_model):
        with pytest.raises(UserError, match=r"manifest\.json"):
            export.load(folder)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        export.load(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(UserError, match="JSON object"):
        export.load(tmp_path)


@needs_flatbuffers
def test_another_platform_is_named(own_folder):  # noqa: F811
    programs = json.loads((own_folder / "manifest.json").read_text())["programs"]
    for entries in programs.values():
        entries[0]["platforms"] = ["tpu"]
    model = export.load(_edited(own_folder, programs=programs))
    with pytest.raises(ExportError, match="exported for tpu, cuda, tpu, and JAX runs on cpu"):
        model.classes(["zebra"])


@needs_flatbuffers
def test_wrong_calls_are_named(exported_folder):  # noqa: F811
    model = export.load(exported_folder)
    words = model.classes()
    images, _ = pictures(1, (16, 16))
    with pytest.raises(ExportError, match=r"uint8\[B 32 40 3\]"):
        model.segment(images, words)
    images, _ = pictures(1, (32, 40))
    with pytest.raises(ExportError, match="uint8"):
        model.segment(images.astype(np.float32), words)
    with pytest.raises(ExportError, match="draws its own"):
        model.segment(images, words, masks=np.zeros((1, 2, 32, 40), np.float32))
    with pytest.raises(ExportError, match=r"uint8\[H W 3\]"):
        model.picture(np.zeros((4, 4), np.uint8), words)
    with pytest.raises(ExportError, match=r"\[M 32 40\]"):
        model.picture(images[0], words, masks=np.zeros((2, 8, 8)))
    for names, hint in (("zebra", "in a list"), ([], "words"), (["a", "a"], "twice"), ([" "], "w")):
        with pytest.raises(ExportError, match=hint):
            model.classes(names)


@needs_flatbuffers
@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("RESOURCE_EXHAUSTED: out of memory", "3 pictures at once; segment fewer"),
        ("INVALID_ARGUMENT: Failed to deserialize StableHLO", "cannot read the program 'segment'"),
    ],
)
def test_what_jax_says_becomes_advice(exported_folder, said, hint):  # noqa: F811
    model = export.load(exported_folder)

    def fails(params, inputs):
        raise jax.errors.JaxRuntimeError(said)

    model._programs["segment"] = ({}, fails)
    images, _ = pictures(3, (32, 40))
    with pytest.raises(ExportError, match=hint):
        model.segment(images, model.classes())


@needs_flatbuffers
def test_a_program_that_jax_cannot_read_is_named(own_folder):  # noqa: F811
    path = own_folder / "text.cpu.stablehlo"
    path.write_bytes(b"no program" * 50)
    manifest = json.loads((own_folder / "manifest.json").read_text())
    del manifest["files"][path.name]
    model = export.load(_edited(own_folder, files=manifest["files"]))
    with pytest.raises(ExportError, match="cannot read the program 'text'"):
        model.classes(["zebra"])


@needs_flatbuffers
def test_run_py_reports_mistakes_in_one_line(exported_folder, tmp_path, capsys):  # noqa: F811
    for words in (
        [str(tmp_path / "none.png"), "--labels", "zebra"],
        [str(tmp_path / "none.png"), "--labels", ","],
        [str(tmp_path), "--model", str(tmp_path)],
    ):
        assert run_main(["--model", str(exported_folder), *words]) == 2
        said = capsys.readouterr().err
        assert said.startswith("run.py:") and said.count("\n") == 1


def _answers(self, image, words, masks=None):
    return Result(np.zeros((2, 2), np.int32), ("zebra",), {"zebra": 0.5}, ("zebra",))


@needs_flatbuffers
def test_run_py_replaces_neither_pictures_nor_its_own_results(
    exported_folder,  # noqa: F811
    tmp_path,
    capsys,
    monkeypatch,
):
    monkeypatch.setattr(Exported, "picture", _answers)
    pictures = [tmp_path / name / "p.png" for name in ("a", "b")]
    for path in pictures:
        path.parent.mkdir()
        path.write_bytes(b"mine")
    words = ["--model", str(exported_folder), *map(str, pictures), "-o"]
    assert run_main([*words, str(tmp_path / "out")]) == 0
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["p.json", "p.png", "p_2.json", "p_2.png"]
    capsys.readouterr()
    assert run_main([*words, str(tmp_path / "b")]) == 2
    assert "a result would replace it" in capsys.readouterr().err
    assert all(path.read_bytes() == b"mine" for path in pictures)
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["p.png"]


@needs_flatbuffers
def test_run_py_leaves_no_half_of_a_file(exported_folder, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(Exported, "picture", _answers)

    def full(self, data):
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    words = ["--model", str(exported_folder), "p.png", "-o", str(tmp_path)]
    assert run_main(words) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    assert run_main(words) == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@needs_flatbuffers
@pytest.mark.parametrize("kind", ["text", "empty", "npz", "words"])
def test_run_py_names_masks_that_are_none(exported_folder, tmp_path, capsys, kind):  # noqa: F811
    path = tmp_path / "masks.npy"
    path.write_text("masks" if kind == "text" else "")
    if kind == "npz":
        with path.open("wb") as file:
            np.savez(file, a=np.zeros(3))
    elif kind == "words":
        np.save(path, np.array(["a"]))
    assert run_main(["--model", str(exported_folder), "p.png", "--masks", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"run.py: {path}: ") and said.count("\n") == 1


@needs_flatbuffers
def test_run_py_leaves_labels_out_of_the_background(exported_folder, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr(Exported, "picture", _answers)
    asked = []
    monkeypatch.setattr(Exported, "classes", lambda self, *words: asked.append(words))
    words = ["--model", str(exported_folder), "p.png", "-o", str(tmp_path), "--labels", "Grass, a"]
    assert run_main([*words, "--background", "grass, sky"]) == 0
    assert asked == [(["Grass", "a"], ["sky"])]

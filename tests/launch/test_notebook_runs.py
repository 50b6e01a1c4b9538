"""The notebooks of launch/colab run as they are, in a kernel of this Python, in an empty folder.

`pip install -e '.[test-people]' && pytest -m slow tests/launch/test_notebook_runs.py`
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import io
import json
import os
import re
import sys
import time

import numpy as np
import pytest
from PIL import Image

from launch.run import ROOT
from tests.compiling import quick_flags

FOLDER = ROOT / "launch" / "colab"


def execute(path, folder, changes=(), flags=""):
    """Runs a notebook in a kernel of this Python, up to the first error.

    Args:
        path: the notebook.
        folder: to run in.
        changes: (field, Python literal) pairs for the forms.
        flags: more XLA_FLAGS; programs are compiled quickly, since nothing here is about speed.

    Returns:
        its code cells with what they showed.
    """
    for name in ("nbclient", "ipykernel"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed; run: pip install 'openseg_jax[test-people]'")
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    made = nbformat.read(path, as_version=4)
    cells = [cell for cell in made.cells if cell.cell_type == "code"]
    for field, value in changes:
        old, new = rf"^{field} = .*?  # @param", f"{field} = {value}  # @param"
        done = [re.subn(old, lambda _, new=new: new, cell.source, flags=re.M) for cell in cells]
        assert sum(count for _, count in done) == 1, f"{path.name}: no field {field}"
        for cell, (source, _) in zip(cells, done, strict=True):
            cell.source = source
    cells[0].source += "\nimport sys; print(sys.executable)"
    client = NotebookClient(
        made, timeout=1800, startup_timeout=600, kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )  # fmt: skip
    began, spent = time.perf_counter(), os.times()
    with contextlib.suppress(CellExecutionError):
        client.execute(env={**os.environ, "XLA_FLAGS": f"{quick_flags()} {flags}"})
    nbformat.write(made, folder / path.name)  # for whoever wants to see it
    took, now = time.perf_counter() - began, os.times()
    cpu = now.children_user + now.children_system - spent.children_user - spent.children_system
    print(f"{path.stem}: {took:.0f} s, {cpu:.0f} s of CPU")
    version, kernel = said(cells[:1]).splitlines()
    assert version.startswith("openseg_jax ")
    assert kernel == sys.executable
    return cells


def said(cells):
    """Joins what cells printed, logged and displayed as text."""
    parts = []
    for output in (output for cell in cells for output in cell.outputs):
        if output.output_type == "stream":
            parts.append(output.text)
        elif output.output_type == "error":
            parts += output.traceback
        else:
            parts.append(output.data.get("text/markdown", output.data.get("text/plain", "")))
    return "\n".join(parts)


def pictures(cells):
    """Decodes the pictures that cells displayed."""
    shown = [
        o.data["image/png"] for c in cells for o in c.outputs if "image/png" in o.get("data", {})
    ]
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) for data in shown
    ]


def check_sound(cells):
    """Asserts that every cell ran to its end, and that pictures show something."""
    for cell in cells:
        assert cell.execution_count, said(cells)
        assert not [o for o in cell.outputs if o.output_type == "error"], said([cell])
        assert "Traceback" not in said([cell])
    for picture in pictures(cells):
        assert picture.std() > 10, "a picture of one colour"


def notebook(start):
    (path,) = FOLDER.glob(f"{start}_*.ipynb")
    return path


@pytest.mark.slow
def test_01_segments(tmp_path):
    cells = execute(notebook("01"), tmp_path)
    check_sound(cells)
    text = said(cells)
    assert len(pictures(cells)) == 3
    kept = re.findall(r"^(\w+) +\d\.\d\d  kept", text, re.M)
    assert kept == ["ladybird"]
    found = json.loads((tmp_path / "openseg_out" / "picture.json").read_text(encoding="utf-8"))
    assert [mask["label"] for mask in found["masks"]] == kept


@pytest.mark.slow
def test_02_classifies(tmp_path):
    cells = execute(notebook("02"), tmp_path)
    check_sound(cells)
    assert len(pictures(cells)) == 3
    best = re.findall(r"^mask +\d+ .*?picture   (\w+) ", said(cells), re.M)
    assert sorted(best) == ["chessboard", "present", "sand", "snow"]
    rows = re.findall(r"^ +(\d+) +(\d\.\d+) +(\d\.\d+) +(\d\.\d+)$", said(cells), re.M)
    fits, frozen, tuned = np.asarray(rows, float)[:, 1:].T
    assert fits[0] == 1.0 > fits[-1]
    assert frozen[0] - frozen[-1] < tuned[0] - tuned[-1]
    assert (tmp_path / "openseg_out" / "picture_masks.csv").is_file()


def check_tuned(cells, folder, devices):
    check_sound(cells)
    text, run = said(cells), folder / "runs" / "clip_miniature"
    assert f"{devices} × " in text
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open(encoding="utf-8")]
    asked = [row["zero_shot/top1"] for row in rows if "zero_shot/top1" in row]
    assert asked[-1] > asked[0] + 0.05
    assert "examples/s (median" in text
    alphas = np.asarray(
        re.findall(r"│ +(0|0\.5|1) │ +([\d.]+) │ +[\d.]+ │ +([\d.]+) │", text), float
    )
    assert alphas[:, 0].tolist() == [0, 0.5, 1]
    assert alphas[0, 1] < alphas[2, 1], "grey pictures are learnt"
    assert (run / "mixed" / "config.json").is_file()
    assert (
        "v5e:4x4: 16 chips" in text
        if importlib.util.find_spec("libtpu")
        else "no libtpu here" in text
    )
    return text


@pytest.mark.slow
def test_03_fine_tunes(tmp_path):
    cells = execute(notebook("03"), tmp_path)
    assert "| on mesh axes |" in check_tuned(cells, tmp_path, 1)


@pytest.mark.slow
def test_03_on_eight_devices(tmp_path):
    flags = "--xla_force_host_platform_device_count=8"
    cells = execute(notebook("03"), tmp_path, flags=flags)
    text = check_tuned(cells, tmp_path, 8)
    assert "Mesh: data 4 × fsdp 2 × tensor 1" in text
    # What lies on pairs of devices is halved there.
    whole, device = re.search(r"keeps: ([\d.]+) MiB, ([\d.]+) MiB on each device", text).groups()
    assert 0.5 <= float(device) / float(whole) < 0.7


@pytest.mark.slow
def test_04_trains_segclip(tmp_path):
    cells = execute(notebook("04"), tmp_path)
    check_sound(cells)
    text, run = said(cells), tmp_path / "runs" / "segclip"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open(encoding="utf-8")]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0]
    assert {"contrastive", "reconstruction", "superpixel"} <= set(rows[0])
    looked = sorted(path.name for path in (run / "pictures").glob("*.png"))
    assert looked and all(name in text for name in looked)
    assert len(pictures(cells)) == len(looked) + 1
    assert "segclip" in json.loads((run / "model" / "config.json").read_text())["extras"]


@pytest.mark.slow
def test_05_tunes_maft(tmp_path):
    cells = execute(notebook("05"), tmp_path)
    check_sound(cells)
    rows = re.findall(r"^(all|seen|unseen) +([\d.]+) +([\d.]+)$", said(cells), re.M)
    numbers = {name: (float(before), float(after)) for name, before, after in rows}
    assert set(numbers) == {"all", "seen", "unseen"}
    assert numbers["all"][0] < numbers["all"][1]
    assert len(pictures(cells)) == 1


@pytest.mark.slow
def test_06_evaluates(tmp_path):
    cells = execute(notebook("06"), tmp_path)
    check_sound(cells)
    text = said(cells)
    assert "{'gt': 0.833, 'union': 0.556, 'all': 0.417}" in text
    assert "### Most mixed up: maft" in text
    report = json.loads((tmp_path / "openseg_eval" / "miniature" / "report.json").read_text())
    for result in report["results"]:
        assert f"{100 * result['metrics']['miou_gt']:.2f}" in text
    frames = [
        o.data["text/html"] for c in cells for o in c.outputs if "text/html" in o.get("data", {})
    ]
    assert any(frame.startswith("<iframe srcdoc=") for frame in frames)


MISTAKES = [
    ("01", {"MODEL": "'ViT-B-61'"}, "did you mean 'ViT-B-16'?"),
    ("01", {"PICTURE": "'holiday.jpg'"}, "holiday.jpg"),
    ("01", {"PICTURE": "'upload'"}, "PICTURE: uploads work on Colab only"),
    ("02", {"MASKS": "'mask.png'"}, "mask.png"),
    ("03", {"MODEL": "'miniatur'"}, "did you mean 'miniature'?"),
    ("04", {"CONFIG": "'miniature_segclp'"}, "did you mean 'miniature_segclip'?"),
    ("05", {"IMAGES": "'no_such_folder'"}, "no_such_folder"),
    ("06", {"METHODS": "'mafd'"}, "did you mean 'maft'?"),
    ("06", {"BENCHMARK": "'voc22'", "DATA_DIR": "'.'"}, "did you mean 'voc2"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "changes", "text"),
    MISTAKES,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_in_a_form_is_one_line(tmp_path, start, changes, text):
    cells = execute(notebook(start), tmp_path, changes.items())
    errors = [o for cell in cells for o in cell.outputs if o.output_type == "error"]
    assert [error.ename for error in errors] == ["UserError"]
    (line,) = errors[0].traceback
    assert line.startswith("openseg: ")
    assert "\n" not in line
    assert text in line
    assert "Traceback" not in said(cells)

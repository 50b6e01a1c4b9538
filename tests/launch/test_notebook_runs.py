"""The notebooks of launch/colab run as they are, in a kernel of this Python, in an empty folder.

`pip install -e '.[test-people]' && pytest -m slow tests/launch/test_notebook_runs.py`
"""

from __future__ import annotations

import base64
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

FOLDER = ROOT / "launch" / "colab"


def execute(path, folder, changes=(), env=None):
    """Runs a notebook in a kernel of this Python; returns its code cells with what they showed.

    Args:
        path: the notebook. folder: to run in.
        changes: (field, Python literal) pairs for the forms.
        env: more environment variables for the kernel.
    """
    for name in ("nbclient", "ipykernel"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed; run: pip install 'openseg_jax[test-people]'")
    import nbformat
    from nbclient import NotebookClient

    made = nbformat.read(path, as_version=4)
    for field, value in changes:
        count = 0
        for cell in made.cells:
            if cell.cell_type == "code":
                cell.source, n = re.subn(
                    rf"^{field} = .*?  #@param",
                    f"{field} = {value}  #@param",
                    cell.source,
                    flags=re.M,
                )
                count += n
        assert count == 1, f"{path.name}: no field {field}"
    made.cells.append(nbformat.v4.new_code_cell("import sys; print(sys.executable)"))
    client = NotebookClient(
        made, timeout=900, kernel_name="python3", allow_errors=True,
        resources={"metadata": {"path": str(folder)}},
    )  # fmt: skip
    began = time.perf_counter()
    client.execute(env={**os.environ, **(env or {})})
    print(f"{path.stem}: {time.perf_counter() - began:.0f} s")
    *cells, last = [cell for cell in made.cells if cell.cell_type == "code"]
    if not changes:
        assert said([last]).strip() == sys.executable
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
        assert not [o for o in cell.outputs if o.output_type == "error"], said([cell])
        assert "Traceback" not in said([cell])
    assert cells[0].outputs[0].text.startswith("openseg_jax ")
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
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    cells = execute(notebook("03"), tmp_path, env={"XLA_FLAGS": flags.strip()})
    text = check_tuned(cells, tmp_path, 8)
    assert "Mesh: data 4 × fsdp 2 × tensor 1" in text
    # What lies on pairs of devices is halved there.
    whole, device = re.search(r"keeps: ([\d.]+) MiB, ([\d.]+) MiB on each device", text).groups()
    assert 0.5 <= float(device) / float(whole) < 0.7

"""The notebooks of launch/colab: in step with their texts, and gentle with JAX."""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from launch.colab import make
from launch.run import ROOT

FOLDER = ROOT / "launch" / "colab"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
INSTALL = (FOLDER / "install.py").read_text(encoding="utf-8")
README = (FOLDER / "README.md").read_text(encoding="utf-8")
every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@functools.cache
def load(path):
    return json.loads(path.read_text(encoding="utf-8"))


def code_of(path):
    cells = [cell for cell in load(path)["cells"] if cell["cell_type"] == "code"]
    return ["".join(cell["source"]) for cell in cells]


def plain(code):
    """Returns a cell as Python: lines for IPython become `pass` where they stand."""
    return re.sub(r"^(\s*)[%!].*$", r"\1pass", code, flags=re.M)


def test_there_are_six():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]
    assert {path.stem for path in NOTEBOOKS} == {p.stem for p in (FOLDER / "src").glob("*.md")}


def test_they_are_in_step_with_their_texts(capsys):
    assert make.main(["--check"]) == 0, "run: python launch/colab/make.py"
    assert "nothing" in capsys.readouterr().out


@every
def test_they_are_valid_and_hold_no_output(path):
    made = load(path)
    assert (made["nbformat"], made["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in made["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9-_]{1,64}", name) for name in ids)
    for cell in made["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
        else:
            assert set(cell) == {"cell_type", "id", "metadata", "source"}
    assert made["metadata"]["kernelspec"]["name"] == "python3"
    if importlib.util.find_spec("nbformat"):
        import nbformat

        nbformat.validate(nbformat.read(path, as_version=4))


@every
def test_the_first_cell_of_code_is_the_shared_one(path):
    first, *others = code_of(path)
    assert first == INSTALL.strip("\n")
    assert not any(re.search(r"\bpip\b", code) for code in others), "only the first cell installs"


@every
def test_cells_are_python(path):
    for code in code_of(path):
        ast.parse(plain(code))


def test_cells_are_formatted():
    command = [sys.executable, "-m", "ruff", "format", "--check", "--isolated", "--line-length=100"]
    if importlib.util.find_spec("ruff") is None:
        pytest.skip("ruff is not installed; run: pip install ruff")
    done = subprocess.run([*command, *NOTEBOOKS, FOLDER / "install.py"], capture_output=True)
    assert done.returncode == 0, done.stdout.decode()


@every
def test_every_openseg_line_is_one_that_the_command_takes(path):
    from openseg_jax.cli.main import VERBS

    for line in re.findall(r"^\s*%openseg (.*)$", "\n".join(code_of(path)), re.M):
        assert line.split()[0] in VERBS


@every
def test_the_miniature_is_the_default_choice(path):
    forms = "\n".join(
        line for code in code_of(path) for line in code.splitlines() if "# @param" in line
    )
    chosen = dict(re.findall(r"^(\w+) = (.+?)  # @param", forms, re.M))
    assert set(chosen) > {"SOURCE"}
    for name in ("MODEL", "INIT", "CONFIG", "BENCHMARK"):
        if name in chosen:
            assert chosen[name].startswith('"miniature'), f"{path.name}: {name}"


def test_the_readme_names_each_of_them():
    for path in NOTEBOOKS:
        assert f"({path.name})" in README


# ---- the cell that installs


def wheel(folder, name, version, requires=()):
    """Writes a wheel that holds one module."""
    info = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {need}" for need in requires]
    files = {
        f"{name}/__init__.py": f"__version__ = {version!r}",
        f"{info}/METADATA": "\n".join(lines),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any",
    }
    files[f"{info}/RECORD"] = "\n".join(f"{path},," for path in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        for path, text in files.items():
            file.writestr(path, text + "\n")


class Runtime:
    """A Python environment of its own with pip, where JAX is some version: Colab in small.

    Its index is a folder of wheels, where openseg_jax wants `helper`, whose newest version wants
    a newer JAX.
    """

    def __init__(self, folder):
        self.folder, self.wheels = folder, folder / "wheels"
        self.wheels.mkdir()
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
        (self.site,) = (folder / "env" / "lib").glob("python*/site-packages")
        pip = importlib.util.find_spec("pip")
        assert pip is not None and pip.origin is not None
        (self.site / "pip").symlink_to(Path(pip.origin).parent)
        for version in ("0.9.2", "0.10.2", "0.12.1", "0.13.0"):
            wheel(self.wheels, "jax", version, [f"jaxlib=={version}"])
            wheel(self.wheels, "jaxlib", version)
        for name, versions in {"libtpu": ("0.0.30", "0.0.40"), "numpy": ("2.1.0", "2.4.0")}.items():
            for version in versions:
                wheel(self.wheels, name, version)
        wheel(self.wheels, "helper", "1.0", ["jax>=0.10", "numpy"])
        wheel(self.wheels, "helper", "2.0", ["jax>=0.12", "libtpu>=0.0.40", "numpy>=2.2"])
        wheel(self.wheels, "openseg_jax", "0.1.0", ["jax>=0.10,<0.13", "helper"])

    def has(self, **versions):
        """Puts packages where an image of Colab has them."""
        for name, version in versions.items():
            with zipfile.ZipFile(self.wheels / f"{name}-{version}-py3-none-any.whl") as file:
                file.extractall(self.site)

    def versions(self):
        return dict(path.stem.rsplit("-", 1) for path in self.site.glob("*.dist-info"))

    def run(self, code):
        settings = {
            "NO_INDEX": "1", "FIND_LINKS": str(self.wheels), "NO_CACHE_DIR": "1",
            "DISABLE_PIP_VERSION_CHECK": "1",
        }  # fmt: skip
        return subprocess.run(
            [self.folder / "env" / "bin" / "python", "-c", code], cwd=self.folder, text=True,
            capture_output=True, check=False,
            env={"PATH": os.environ["PATH"], **{f"PIP_{k}": v for k, v in settings.items()}},
        )  # fmt: skip


@pytest.fixture
def runtime(tmp_path):
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this Python has no pip; run: python -m ensurepip")
    return Runtime(tmp_path)


def test_installing_keeps_the_runtime_s_jax(runtime):
    runtime.has(jax="0.10.2", jaxlib="0.10.2", libtpu="0.0.30", numpy="2.1.0")
    before = runtime.versions()
    done = runtime.run(INSTALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "openseg_jax 0.1.0, JAX 0.10.2\n"
    assert runtime.versions() == before | {"openseg_jax": "0.1.0", "helper": "1.0"}
    # A second run finds it installed, and asks pip for nothing.
    (runtime.wheels / "openseg_jax-0.1.0-py3-none-any.whl").unlink()
    assert runtime.run(INSTALL).stdout == "openseg_jax 0.1.0, JAX 0.10.2\n"


def test_without_the_constraints_pip_would_move_it(runtime):
    runtime.has(jax="0.10.2", jaxlib="0.10.2", libtpu="0.0.30", numpy="2.1.0")
    loose = INSTALL.replace('"--constraint", str(pins), ', "")
    assert loose != INSTALL
    done = runtime.run(loose)
    assert "Stop: pip changed jax, jaxlib, libtpu, numpy" in done.stderr
    assert runtime.versions()["jax"] == "0.12.1"


@pytest.mark.parametrize("version", ["0.9.2", "0.13.0"])
def test_another_jax_is_named_and_nothing_is_installed(runtime, version):
    runtime.has(jax=version, jaxlib=version)
    before = runtime.versions()
    done = runtime.run(INSTALL)
    assert done.stderr.splitlines()[-1].startswith(
        f"Stop: This runtime has JAX {version}, and openseg_jax needs"
    )
    assert runtime.versions() == before


def test_what_cannot_be_installed_is_said(runtime):
    runtime.has(jax="0.10.2", jaxlib="0.10.2")
    done = runtime.run(INSTALL.replace('SOURCE = ""', 'SOURCE = "openseg_jxa"'))
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Stop: pip could not install 'openseg_jxa' beside this JAX.")
    assert "No matching distribution found for openseg_jxa" in last


def test_a_clone_around_the_notebook_is_the_source(tmp_path):
    """Upwards from the notebook, or beside it as `git clone` leaves it."""
    clone = tmp_path / "clone"
    for part in ("openseg_jax", "launch/colab"):
        (clone / part).mkdir(parents=True)
    (clone / "setup.py").touch()
    (clone / "openseg_jax" / "__init__.py").touch()
    code = INSTALL.split("try:\n    metadata")[0] + "print(find_source())"
    for here, want in (
        (clone / "launch" / "colab", str(clone)), (clone, str(clone)), (tmp_path, str(clone)),
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=here, text=True, capture_output=True
        )
        assert done.stdout.strip() == want
    (clone / "setup.py").unlink()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, text=True, capture_output=True
    )
    assert done.stdout.strip() == "openseg_jax"


def test_its_versions_of_jax_are_those_of_setup_py():
    bounds = re.search(r"LEAST, BELOW = (.*?)  #", INSTALL)
    low, high = ast.literal_eval(bounds[1])
    wanted = re.search(
        r'"jax>=([\d.]+),<([\d.]+)"', (ROOT / "setup.py").read_text(encoding="utf-8")
    )
    assert [".".join(map(str, x)) for x in (low, high)] == [wanted[1], wanted[2]]


def test_every_part_of_jax_is_kept():
    pattern = re.compile(re.search(r'KEPT = re.compile\(r"(.*)"\)', INSTALL)[1])
    kept = (
        "jax",
        "jaxlib",
        "libtpu",
        "libtpu-nightly",
        "jax-cuda12-plugin",
        "jax-cuda13-pjrt",
        "jax-rocm7-plugin",
        "numpy",
    )
    assert all(pattern.fullmatch(name) for name in kept)
    assert not any(pattern.fullmatch(name) for name in ("jaxtyping", "numpydoc", "flax", "optax"))

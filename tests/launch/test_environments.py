"""The pinned environments: whole, in step with one another, and what setup.py asks for."""

import ast
import re

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from launch.environments.make import ACCELERATORS, EXTRAS
from launch.run import ROOT

FOLDER = ROOT / "launch" / "environments"
FILES = sorted(FOLDER.glob("*.txt"))
SETUP = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
TABLES = {
    node.targets[0].id: ast.literal_eval(node.value)
    for node in SETUP.body
    if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("CORE", "EXTRAS")
}  # fmt: skip


def pins(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    found = [re.fullmatch(r"([a-z0-9-]+)==([^ ;]+)", x) for x in lines if not x.startswith("#")]
    assert all(found), f"{file.name}: every line is name==version"
    return {match[1]: match[2] for match in found if match}


def lacking(found, wanted):
    """Returns requirements that pinned versions do not meet."""
    bad = []
    for text in wanted:
        need = Requirement(text)
        name = re.sub(r"[-_.]+", "-", need.name).lower()
        if name not in found or not need.specifier.contains(Version(found[name]), prereleases=True):
            bad.append(text)
    return bad


def test_there_is_one_for_each_python_and_accelerator():
    names = {f"py{v}-{x}.txt" for v in ("311", "312") for x in ACCELERATORS}
    assert {file.name for file in FILES} == names


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_they_meet_setup_py(file):
    found, accelerator = pins(file), file.stem.split("-")[1]
    wanted = [*TABLES["CORE"], *TABLES["EXTRAS"][accelerator]]
    wanted += [text for extra in EXTRAS for text in TABLES["EXTRAS"][extra]]
    assert lacking(found, wanted) == []
    assert "gcsfs" in found, "work folders in gs:// need it"
    # A local version ("+cpu") is one that a registry elsewhere does not have.
    assert not [name for name, version in found.items() if "+" in version]
    assert found["jax"] == found["jaxlib"]
    plugin = {"tpu": "libtpu"}.get(accelerator, f"jax-{accelerator}-plugin")
    assert plugin in found


def test_the_check_can_fail():
    found = pins(FILES[0])
    assert lacking(found | {"jax": "0.1"}, TABLES["CORE"]) == ["jax>=0.10,<0.13"]
    assert lacking({}, ["numpy>=1"]) == ["numpy>=1"]


@pytest.mark.parametrize("python", ["311", "312"])
def test_accelerators_of_a_python_agree(python):
    every = [pins(FOLDER / f"py{python}-{x}.txt") for x in ACCELERATORS]
    shared = set.intersection(*map(set, every))
    assert {"jax", "flax", "orbax-checkpoint", "numpy", "grain"} <= shared
    for name in shared:
        assert len({found[name] for found in every}) == 1, name


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_header_says_how_it_was_made(file):
    head = file.read_text(encoding="utf-8").splitlines()[:3]
    python, accelerator = re.fullmatch(r"py3(\d+)-(.*)", file.stem).groups()  # type: ignore[union-attr]
    assert re.search(r"Resolved on 20\d\d-\d\d-\d\d by pip", head[1])
    assert f"make.py python3.{python} --only {accelerator}" in head[2]

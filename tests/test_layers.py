"""The shape of the library: imports point down, files stay short, importing stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "openseg_jax"
FILES = sorted(LIBRARY.rglob("*.py"))
ALL_FILES = FILES + sorted(
    path for top in ("configs", "data", "tests", "launch") for path in (ROOT / top).rglob("*.py")
)

# The layers of the design. A module may import what has a lower rank, or its own package.
RANKS = {
    "types": 0, "errors": 0, "files": 0, "ops": 1,
    "models": 2, "inputs": 2, "viz": 2, "miniature": 2,
    "text": 3, "weights": 3,
    "methods": 4, "tasks": 4,
    "train": 5, "eval": 5, "api": 5, "classify": 5, "report": 5,
    # Compile what trains and what segments, or hand it to others; each is run by a command.
    "plan": 6, "export": 6, "compat": 6,
    "web": 7,
    "cli": 8,
}  # fmt: skip
# Within their rank: what may be used by its neighbours, and nothing else.
ALLOWED = {
    ("errors", "types"), ("files", "errors"), ("weights", "text"), ("classify", "api"),
    ("eval", "api"), ("eval", "report"),
}  # fmt: skip
FORBIDDEN_LIBRARIES = {"torch", "tensorflow", "torchvision", "detectron2", "mmcv", "pydensecrf"}


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def part_of(path: Path) -> str:
    return path.relative_to(LIBRARY).with_suffix("").parts[0]


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{short(path)}: relative import"
            base = node.module or ""
            found += [f"{base}.{alias.name}" for alias in node.names]
    return found


def climbs(path: Path, name: str) -> bool:
    """Whether an import breaks the layers; `name` is dotted, from the top."""
    parts = name.split(".")
    if parts[0] != "openseg_jax" or len(parts) < 2 or parts[1] not in RANKS:
        return False
    here, there = part_of(path), parts[1]
    if here == there or here == "__init__" or (here, there) in ALLOWED:
        return False
    return RANKS[there] >= RANKS[here]


@pytest.mark.parametrize("path", FILES, ids=short)
def test_imports_point_down(path):
    if part_of(path) != "__init__":
        assert part_of(path) in RANKS, f"give {part_of(path)} a rank"
    wrong = [name for name in imports(path) if climbs(path, name)]
    assert not wrong, f"{short(path)} imports {wrong}"


def test_the_layer_test_can_fail():
    assert climbs(LIBRARY / "ops" / "x.py", "openseg_jax.models.clip")
    assert climbs(LIBRARY / "train" / "x.py", "openseg_jax.eval.confusion")
    assert not climbs(LIBRARY / "eval" / "x.py", "openseg_jax.methods.base")


def test_train_knows_no_method_and_evaluation_no_task():
    for top, other in (("train", "methods"), ("eval", "tasks")):
        for path in (LIBRARY / top).rglob("*.py"):
            names = [n for n in imports(path) if n.startswith(f"openseg_jax.{other}")]
            assert not names, f"{short(path)} imports {names}"


@pytest.mark.parametrize("path", FILES, ids=short)
def test_no_torch_and_no_tensorflow(path):
    used = {name.split(".")[0] for name in imports(path)} & FORBIDDEN_LIBRARIES
    assert not used


def test_configs_hold_values_only():
    for path in (ROOT / "configs").rglob("*.py"):
        names = [n for n in imports(path) if n.startswith("openseg_jax")]
        # Architectures are values too.
        values = ("openseg_jax.configs", "openseg_jax.models.variants")
        wrong = [n for n in names if not n.startswith(values)]
        assert not wrong, f"{short(path)} imports {wrong}"


@pytest.mark.parametrize("path", ALL_FILES, ids=short)
def test_files_are_at_most_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", FILES, ids=short)
def test_public_definitions_have_docstrings(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path.name != "__init__.py" or tree.body:
        assert ast.get_docstring(tree), f"{short(path)} has no docstring"
    missing = []
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        members = node.body if isinstance(node, ast.ClassDef) else []
        public = [m for m in members if isinstance(m, ast.FunctionDef) and m.name[0] != "_"]
        known = _inherited(node, path)
        missing += [
            n.name for n in (node, *public) if not ast.get_docstring(n) and n.name not in known
        ]
    assert not missing, f"{short(path)}: no docstring on {missing}"


def _inherited(node: ast.AST, path: Path) -> set[str]:
    """Names that a subclass overrides: flax's `setup`, and what its bases document."""
    if not isinstance(node, ast.ClassDef):
        return set()
    bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name in bases]
    members = [m.name for n in own for m in n.body if isinstance(m, ast.FunctionDef)]
    outside = bases - {n.name for n in own}
    methods = [m.name for m in node.body if isinstance(m, ast.FunctionDef)] if outside else []
    return {"setup", *members, *methods}


@pytest.mark.parametrize("path", FILES, ids=short)
def test_the_library_does_not_print(path):
    # What a command prints is its output.
    if part_of(path) == "cli":
        return
    calls = [
        n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if type(n) is ast.Call
    ]
    names = [c.func.id for c in calls if isinstance(c.func, ast.Name)]
    assert "print" not in names


def run_python(code: str) -> str:
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    return out.stdout


def test_importing_the_library_imports_next_to_nothing():
    loaded = run_python("import sys, openseg_jax; print(*sys.modules)").split()
    for heavy in ("jax", "flax", "numpy", "PIL", "tensorflow", "torch", "skimage", "orbax"):
        assert heavy not in loaded


def test_inference_imports_neither_tensorflow_nor_torch_and_asks_for_no_device():
    code = (
        "import sys, jax\n"
        "import openseg_jax\n"
        "for name in openseg_jax.__all__: getattr(openseg_jax, name)\n"
        "import openseg_jax.cli.main, openseg_jax.cli.segment\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized(), 'devices were touched at import'\n"
        "print(*sys.modules)"
    )
    loaded = run_python(code).split()
    for heavy in ("tensorflow", "torch", "transformers", "tensorflow_datasets"):
        assert heavy not in loaded


def test_every_public_name_resolves_and_is_documented():
    import openseg_jax

    for name in openseg_jax.__all__:
        assert getattr(openseg_jax, name).__doc__, name
    assert not hasattr(openseg_jax, "no_such_name")

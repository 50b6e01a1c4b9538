"""Every training config builds with ":tiny", and no config invents keys."""

from pathlib import Path

import pytest
from ml_collections import ConfigDict

from openseg_jax.cli.train import base_config, load_config, override
from openseg_jax.errors import UserError
from openseg_jax.train import setup

ROOT = Path(__file__).parents[1] / "configs"
# What is no training: the defaults themselves, and the settings of methods that do not train.
OTHER = {"__init__", "base", "car", "clip_dense", "segclip"}
TRAINED = sorted(p.stem for p in ROOT.glob("*.py") if p.stem not in OTHER)


def _keys(config, name=""):
    for key in config.keys():  # noqa: SIM118 (a ConfigDict)
        yield f"{name}{key}"
        if isinstance(config[key], ConfigDict):
            yield from _keys(config[key], f"{name}{key}.")


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("arg", ["", ":tiny"])
def test_configs_use_the_keys_of_base(name, arg):
    config = load_config(f"{ROOT / name}.py{arg}")
    assert set(_keys(config)) == set(_keys(base_config()))
    assert config.is_locked
    if arg or config.input.name == "miniature":
        assert setup.build(config).saw
    else:
        # What it reads is not here, which is said before any weights are asked for.
        with pytest.raises(UserError, match=r"input\.path"):
            setup.build(config)
    if arg == ":tiny":
        assert config.steps == 2


def test_base_explains_every_key():
    lines = [s for s in (ROOT / "base.py").read_text().splitlines() if s.startswith("    c.")]
    obvious = ("c.optim.b1", "c.optim.b2", "c.optim.eps")
    bare = [s for s in lines if "#" not in s and "= ConfigDict()" not in s]
    assert [s.split("=")[0].strip() for s in bare] == list(obvious)


def test_unknown_keys_are_errors(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(
        "from openseg_jax.configs import base\n"
        "def get_config(arg=''):\n"
        "    c = base.get_config()\n"
        "    c.optim.learning_rte = 1.0\n"
        "    return c\n"
    )
    with pytest.raises(UserError, match="learning_rte"):
        load_config(str(path))


@pytest.mark.parametrize(
    "text, said",
    [
        ("miniature_clp", "miniature_clip"),
        ("nowhere/x.py", "no file"),
        ("miniature_clip:tny", "tiny"),
        ("car:voc", "training config"),
    ],
)
def test_config_errors_say_what_to_do(text, said):
    with pytest.raises(UserError, match=said):
        load_config(text)


def test_file_without_get_config(tmp_path):
    path = tmp_path / "empty.py"
    path.write_text("x = 1\n")
    with pytest.raises(UserError, match="get_config"):
        load_config(str(path))


@pytest.mark.parametrize(
    "text, said",
    [
        ("def get_config(arg=''):\n    return x +\n", "line 2: SyntaxError"),
        ("y = z\n", "NameError: .*'z'"),
    ],
)
def test_a_mistake_in_a_config_file_is_the_persons(tmp_path, text, said):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"broken\.py.*{said}"):
        load_config(str(path))


def test_settings_override_without_touching_the_config():
    config = load_config("miniature_clip:tiny")
    steps = config.steps
    changed = override(config, ["steps=7", "optim.learning_rate=1", "input.name=x", "mesh.fsdp=2"])
    assert (changed.steps, changed.optim.learning_rate, changed.input.name) == (7, 1.0, "x")
    assert changed.mesh.fsdp == 2 and config.steps == steps


@pytest.mark.parametrize(
    "setting, said",
    [
        ("stps=1", "did you mean 'steps'"),
        ("optim.learning_rat=1", "did you mean 'learning_rate'"),
        ("optim.b1.x=1", "unknown name 'x'"),
        ("steps=soon", "expected int, got 'soon'"),
        ("steps", "KEY=VALUE"),
    ],
)
def test_bad_settings_are_errors(setting, said):
    with pytest.raises(UserError, match=said):
        override(load_config("miniature_clip:tiny"), [setting])


@pytest.mark.parametrize("key", ["task.name", "input.name", "dtype", "task.loss"])
def test_unknown_names_in_values(key):
    with pytest.raises(UserError, match="unknown name 'nothing'"):
        setup.build(override(load_config("miniature_clip:tiny"), [f"{key}=nothing"]))

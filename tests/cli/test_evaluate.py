"""`openseg evaluate`: from flags and configs to reports, and one line for each mistake."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openseg_jax.cli.evaluate import CONFIGS, configured, evaluators
from openseg_jax.cli.main import Parser, main
from openseg_jax.cli.train import base_config, load_config
from openseg_jax.errors import UserError
from openseg_jax.methods.base import METHODS
from tests.eval.colours import COLOURS, Colours

ROOT = Path(__file__).parents[2] / "configs" / "eval"
FILES = sorted(path.stem for path in ROOT.glob("*.py") if path.stem not in ("__init__", "base"))


def load(model, **settings):
    """What METHODS names for the tests' method."""
    if "nonsense" in settings:
        raise UserError("setting: unknown name 'nonsense'")
    return Colours()


@pytest.fixture
def colours(monkeypatch):
    monkeypatch.setitem(METHODS, "maft", (__name__, "load"))
    monkeypatch.setitem(METHODS, "car", (__name__, "load"))
    from openseg_jax import api
    from openseg_jax.eval import evaluate, rules

    monkeypatch.setattr(evaluate, "handling", lambda method, segmenter: rules.Handling())
    api.load.cache_clear()
    yield
    api.load.cache_clear()


@pytest.fixture
def folder(tmp_path):
    """A user's own set of two pictures."""
    home = tmp_path / "mine"
    for name in ("images", "labels"):
        (home / name).mkdir(parents=True)
    (home / "classes.txt").write_text("background\nred\ngreen\n")
    labels = np.zeros((24, 32), np.uint8)
    labels[:12, :16], labels[12:, 16:], labels[:2] = 1, 2, 255
    table = np.array([(90, 90, 90), COLOURS["red"], COLOURS["green"]], np.uint8)
    for name in ("one", "two"):
        Image.fromarray(table[labels % 255]).save(home / "images" / f"{name}.png")
        Image.fromarray(labels).save(home / "labels" / f"{name}.png")
    return home


def arguments(*argv):
    from openseg_jax.cli import evaluate

    parser = Parser(prog="openseg evaluate", allow_abbrev=False)
    evaluate.add_arguments(parser)
    return parser.parse(argv)


def test_a_folder_with_two_methods_makes_one_report(colours, folder, tmp_path, capsys):
    out = tmp_path / "out"
    code = main(["evaluate", "-b", str(folder), "--method", "car,maft", "-o", str(out), "--json"])
    said = capsys.readouterr()
    assert code == 0, said.err
    read = json.loads(said.out)
    assert len(read["results"]) == 2
    for result in read["results"]:
        assert result["metrics"]["miou_gt"] == 1.0 and result["benchmark"] == "mine"
    assert {"report.json", "report.md", "report.html"} <= {p.name for p in (out / "mine").iterdir()}
    assert len(list((out / "mine").glob("counts_*.jsonl"))) == 2


def test_a_folder_that_is_not_there_or_lacks_something(colours, folder, capsys, monkeypatch):
    def said(name):
        assert main(["evaluate", "--method", "maft", "-b", str(name)]) == 2
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        return text

    assert f"did you mean {folder}?" in said(folder.with_name("mime"))
    assert "there is no folder" in said(folder / "none" / "below")
    assert f"did you mean {folder}?" in said(folder / "images")
    assert f"did you mean {folder}?" in said(folder.parent)
    monkeypatch.chdir(folder.parent)
    assert "did you mean 'mine'?" in said("mime")
    (folder / "classes.txt").rename(folder / "Classes.text")
    text = said(folder)
    assert "mine: expected images/, labels/ (or masks/, annotations/) and classes.txt" in text
    assert "got no classes.txt but Classes.text, images, labels; is it " in text
    (folder / "Classes.text").unlink()
    assert "got no classes.txt but images, labels; see docs/evaluation.md" in said(folder)


def test_the_table_says_what_was_done(colours, folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["evaluate", "-b", str(folder), "--method", "maft", "-o", str(out)]) == 0
    said = capsys.readouterr().out
    for words in ("mIoU (gt)", "mIoU (union)", "mIoU (all)", "background_rule", "wrote"):
        assert words in said


@pytest.mark.parametrize(
    "argv, said",
    [
        (["-b", "voc12"], "did you mean 'voc2"),
        (["-b", "voc21"], "openseg data prepare voc --root DIR"),
        (["-b", "voc21", "--data-dir", "nowhere"], "--data-dir"),
        (["--method", "mafft"], "did you mean 'maft'"),
        (["--method", "car,mafft"], "did you mean 'maft'"),
        (["--method", ","], "--method"),
        (["--method", "maft,maft"], "twice"),
        (["--limit", "0"], "--limit: expected at least 1"),
        (["--batch", "0"], "--batch"),
        (["--set", "battch=2"], "did you mean 'batch'"),
        (["--set", "maft.nonsense=2"], "nonsense"),
        (["--set", "maft=2"], "METHOD.KEY=VALUE"),
        (["--config", "minature"], "did you mean 'miniature'"),
        (["--config", "car:voc12"], "unknown name 'voc12'"),
        (["--names", "voc20"], "expected 30 texts"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(colours, argv, said, tmp_path, capsys):
    out = tmp_path / "out"
    defaults = [] if "--method" in argv or "--config" in argv else ["--method", "maft"]
    assert main(["evaluate", *argv, *defaults, "-o", str(out)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not out.exists()


def test_weights_that_lack_a_method_stop_all_before_anything_runs(tmp_path, capsys, world_model):
    out = tmp_path / "out"
    words = ["evaluate", "--method", "clip_dense,segclip", "--limit", "1", "-o", str(out)]
    assert main([*words, "--model", str(world_model)]) == 2
    error = capsys.readouterr().err
    assert "SegCLIP" in error and error.count("\n") == 1 and not out.exists()


def test_flags_win_over_the_config_and_set_over_both():
    config = configured(
        arguments(
            "--config", "car:pc60", "--limit", "5", "--model", "a", "--model", "maft=b",
            "--set", "car.refine=none", "--set", "batch=3", "--names", "plain", "--set", "limit=7",
        )
    )  # fmt: skip
    assert (config.benchmark, config.limit, config.batch, config.names) == ("pc60", 7, 3, "plain")
    assert config.model == "a" and config.models.maft == "b" and config.methods == ("car",)
    assert dict(config.settings.car) == {"classifier": "ViT-L-14", "refine": "none"}
    assert not base_config(CONFIGS).settings.car


@pytest.mark.parametrize("name", FILES)
def test_configs_use_the_keys_of_base(name):
    for arg in ("", ":tiny"):
        config = load_config(f"{ROOT / name}.py{arg}", CONFIGS)
        assert set(config.keys()) == set(base_config(CONFIGS).keys()) and config.is_locked
        assert all(method.partition("/")[0] in config.settings for method in config.methods)
    assert config.limit == 4 and config.benchmark == "miniature"


@pytest.mark.parametrize("name", [name for name in FILES if name != "miniature"])
def test_published_configs_name_benchmarks_that_there_are(name):
    from openseg_jax.cli.evaluate import find_benchmark
    from openseg_jax.eval.rules import settings_for

    for bench in load_module(name).BENCHMARKS:
        config = load_config(f"{name}:{bench}", CONFIGS)
        assert config.benchmark == bench
        for method in config.methods:
            given = dict(config.settings[method.partition("/")[0]])
            assert settings_for(find_benchmark(bench), method, given) is not None


def load_module(name):
    import importlib

    return importlib.import_module(f"{CONFIGS}.{name}")


def test_base_explains_every_key():
    text = (ROOT / "base.py").read_text().partition("def published")[0]
    lines = [s for s in text.splitlines() if s.startswith("    c.") and "= " in s]
    assert len(lines) > 10 and all("#" in line for line in lines if "ConfigDict()" not in line)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_tiny_configs_run(name, tmp_path, capsys):
    argv = ["evaluate", "--config", f"{name}:tiny", "--json", "-o", str(tmp_path)]
    assert main(argv) == 0, capsys.readouterr().err
    read = json.loads(capsys.readouterr().out)
    # A method that has variants is reported with the one that ran: "clip_dense/sclip".
    ran = [r["method"].split("/")[0] for r in read["results"]]
    assert ran == [m.split("/")[0] for m in load_config(f"{name}:tiny", CONFIGS).methods]
    assert all(0 < r["metrics"]["pixel_accuracy"] <= 1 for r in read["results"])


def test_evaluators_are_made_before_anything_is_evaluated(colours):
    config = configured(arguments("--method", "car,maft"))
    assert [job.method for job in evaluators(config)] == ["car", "maft"]


def test_out_is_checked_before_anything_is_loaded(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main(["evaluate", "--model", "nonsense", "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert "--out: expected a folder" in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_unknown_benchmark_offers_all_miniatures(capsys):
    assert main(["evaluate", "--benchmark", "miniature_thing"]) == 2
    assert "did you mean 'miniature_things'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "setting",
    ["short_side=abc", "residual=false", "std='2'", "templates=5", "crop=True", "short_side=None"],
)
def test_settings_of_another_type(setting, capsys):
    code = main(
        ["evaluate", "--method", "clip_dense", "--limit", "1", "--set", f"clip_dense.{setting}"]
    )
    said = capsys.readouterr().err
    assert code == 2 and said.count("\n") == 1
    assert f"{setting.partition('=')[0]}: expected" in said

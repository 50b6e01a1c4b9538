"""The table of benchmarks: class counts, splits, and the texts that each method is given."""

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.eval.benchmarks import BENCHMARKS, benchmark, own_benchmark, texts_for
from openseg_jax.eval.miniature_benchmark import MINIATURES, Scenes, miniature
from openseg_jax.eval.rules import background_rule, passes_for, settings_for
from openseg_jax.inputs.augment import IGNORE
from openseg_jax.inputs.data_sets import data_set
from openseg_jax.inputs.referring_set import NAMES as REFERRING
from openseg_jax.inputs.vocabularies import vocabulary
from openseg_jax.methods.base import METHODS
from openseg_jax.miniature.streams import scene
from openseg_jax.miniature.world import CLASS_NAMES, STUFF, THINGS, UNSEEN_THINGS

SEMANTIC = [bench for bench in BENCHMARKS.values() if bench.task == "semantic"]


@pytest.mark.parametrize("bench", SEMANTIC, ids=lambda bench: bench.name)
def test_classes_are_those_of_the_data_set(bench):
    facts = data_set(bench.data_set)
    assert len(bench.plain.names) == len(facts.classes) - facts.background
    assert facts.background or not bench.background
    assert len(bench.class_names) == len(bench.plain.names) + bench.background
    assert len(set(bench.class_names)) == len(bench.class_names)
    if bench.unseen is not None:
        assert len(bench.unseen) == len(bench.class_names) and bench.unseen.any()


@pytest.mark.parametrize("bench", SEMANTIC, ids=lambda bench: bench.name)
def test_every_list_of_texts_is_of_the_same_classes(bench):
    for method in METHODS:
        chosen = texts_for(bench, method)
        assert len(chosen.names) == len(bench.plain.names)
        base = vocabulary(chosen.variant)
        if chosen.variant != bench.vocabulary:
            of = {b.vocabulary for b in SEMANTIC if b.data_set == bench.data_set}
            assert base.variant_of in of, f"{chosen.variant} is of other classes"
    assert texts_for(bench, "car", "plain") == bench.plain


def test_referring_benchmarks_name_data_sets():
    rows = [bench for bench in BENCHMARKS.values() if bench.task == "referring"]
    assert {bench.data_set for bench in rows} == set(REFERRING)
    assert all(bench.name == f"{bench.data_set}_{bench.part}" for bench in rows)
    assert settings_for(benchmark("refcoco_val"), "car", {})["competition"] == "alone"


def test_background_is_a_class_or_ignored():
    labels = np.array([[0, 1, 20, IGNORE]])
    with_it, without = benchmark("voc21"), benchmark("voc20")
    assert with_it.truth(labels, background=True).tolist() == [[0, 1, 20, IGNORE]]
    assert without.truth(labels, background=True).tolist() == [[IGNORE, 1, 20, IGNORE]]
    assert benchmark("ade150").truth(labels, background=False).tolist() == [[1, 2, 21, IGNORE]]


def test_published_settings_are_taken_and_given_ones_win():
    voc, context = benchmark("voc21"), benchmark("pc60")
    assert settings_for(voc, "car", {})["confidence_threshold"] == 0.6
    assert settings_for(voc, "car", {"confidence_threshold": 0.5})["confidence_threshold"] == 0.5
    assert settings_for(voc, "segclip", {})["bg_threshold"] == 0.8
    assert settings_for(benchmark("voc20"), "segclip", {})["bg_threshold"] is None
    assert settings_for(context, "segclip", {})["bg_threshold"] == 0.25
    assert settings_for(voc, "maft", {}, "reference") == {"parity": "reference"}


@pytest.mark.parametrize("name, passes", [("voc21", 1), ("pc60", 2), ("ade150", 2), ("ade847", 1)])
def test_car_segments_stuff_before_things(name, passes):
    class Car:
        cam = classifier = None
        params = threshold = None
        dtype = "float32"

        def classes(self, names, background=None):
            return tuple(names)

    bench = benchmark(name)
    chosen = texts_for(bench, "car")
    assert ("two passes" in background_rule(bench, "car", chosen)) == (passes == 2)
    if passes == 1:
        (one,) = passes_for(Car(), bench, "car", chosen)
        assert one.ids.tolist() == list(range(len(chosen.names) + 1))


def test_background_texts_are_no_class_of_the_benchmark():
    class Recorder:
        params, threshold = {}, 0.0

        def classes(self, names, background=None):
            return background

    bench = benchmark("pc60")
    (one,) = passes_for(Recorder(), bench, "maft", texts_for(bench, "maft"))
    assert one.threshold == 0.0 and one.text and not set(one.text) & set(bench.plain.names)
    assert "sky" not in one.text
    (one,) = passes_for(Recorder(), benchmark("pc59"), "maft", texts_for(bench, "maft"))
    assert one.threshold is None and one.text == ()


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: benchmark("voc12"), r"did you mean 'voc2[01]'"),
        (lambda: benchmark("minature"), "did you mean 'miniature'"),
        (lambda: settings_for(benchmark("voc21"), "cra", {}), "did you mean 'car'"),
        (lambda: texts_for(benchmark("voc21"), "car", "car_vok"), "did you mean 'car_voc'"),
        (lambda: texts_for(benchmark("voc21"), "car", "pc59"), "expected 20 texts"),
        (lambda: miniature("miniature", 0), "scenes"),
    ],
)
def test_unknown_names_offer_the_nearest(call, said):
    with pytest.raises(UserError, match=said):
        call()


def test_scenes_are_the_test_stream():
    bench, source = miniature("miniature", 3)
    assert len(source) == 3 and bench.class_names == CLASS_NAMES and not bench.background
    image, labels = source.read(1)
    drawn = scene("test", 1)
    np.testing.assert_array_equal(image, drawn.image)
    truth = bench.truth(labels, background=source.background)
    np.testing.assert_array_equal(truth, drawn.semantic)
    hidden = np.array(bench.class_names)[bench.unseen]
    assert set(hidden) == set(UNSEEN_THINGS)


def test_in_the_things_variant_stuff_is_background():
    bench, source = MINIATURES["miniature_things"], Scenes(things=True, count=2)
    _, labels = source.read(0)
    truth = bench.truth(labels, background=source.background)
    drawn = scene("test", 0).semantic
    np.testing.assert_array_equal(truth, np.where(drawn > len(THINGS), 0, drawn))
    assert bench.background_texts == STUFF and bench.class_names == ("background", *THINGS)


def test_a_folder_is_a_benchmark(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    (tmp_path / "classes.txt").write_text("Background\ncat\ndog\n")
    bench = own_benchmark(tmp_path)
    assert bench.background and bench.class_names == ("background", "cat", "dog")
    assert texts_for(bench, "car").names == ("cat", "dog")

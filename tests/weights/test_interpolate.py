import dataclasses
import functools

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.weights.folder import load_folder, save_folder
from openseg_jax.weights.interpolate import interpolate
from openseg_jax.weights.loaded import LoadedClip
from openseg_jax.weights.report import Report
from openseg_jax.weights.tree import flatten
from tests.weights.tiny import CLIP_MU, PREPROCESS, PROVENANCE, random_params, tokenizer

_params = functools.cache(random_params)


def _loaded(seed, name, **changes):
    loaded = LoadedClip(
        CLIP_MU, _params(CLIP_MU, seed), PREPROCESS, tokenizer(),
        {**PROVENANCE, "name": name}, {}, Report("here"),
    )  # fmt: skip
    return dataclasses.replace(loaded, **changes)


def _extra(seed, shape=(3,), count=2, **settings):
    rng = np.random.default_rng(seed)
    arrays = {"a": {"b": rng.normal(size=shape).astype(np.float32)}, "count": np.int32([count])}
    return {"extras": {"maft": arrays}, "extras_config": {"maft": {"start": 1, **settings}}}


def test_every_leaf_lies_on_the_line():
    before, after = _loaded(0, "old", **_extra(0)), _loaded(1, "new", **_extra(1))
    found = interpolate(before, after, 0.25)
    for got, old, new in (
        (found.params, before.params, after.params),
        (found.extras["maft"], before.extras["maft"], after.extras["maft"]),
    ):
        new, old = flatten(new), flatten(old)
        for name, leaf in flatten(got).items():
            want = 0.75 * old[name].astype(np.float64) + 0.25 * new[name]
            np.testing.assert_allclose(leaf, want, rtol=1e-6, atol=1e-7, err_msg=name)
            assert leaf.dtype == new[name].dtype
    # the wrong variant: alpha counted from the other end
    name = "visual/proj/kernel"
    wrong = flatten(interpolate(before, after, 0.75).params)[name]
    assert np.abs(wrong - flatten(found.params)[name]).max() > 0.01


def test_the_ends_are_the_sides_bit_for_bit():
    before, after = _loaded(0, "old"), _loaded(1, "new")
    for alpha, side in ((0.0, before), (1.0, after)):
        found = flatten(interpolate(before, after, alpha).params)
        for name, leaf in flatten(side.params).items():
            np.testing.assert_array_equal(found[name], leaf)


def test_provenance_names_both_and_survives_a_folder(tmp_path):
    before = _loaded(0, "old", defaults={"labels": ["zebra"], "car": {"x": 1}})
    after = _loaded(1, "new", defaults={"labels": ["lemon"]})
    found = interpolate(before, after, 0.5)
    save_folder(
        tmp_path / "half", found.config, found.params, found.preprocess, found.tokenizer,
        found.provenance, found.defaults,
    )  # fmt: skip
    about = load_folder(tmp_path / "half").provenance
    assert about["name"] == "old to new, alpha 0.5"
    assert before.fingerprint in about["before"] and after.fingerprint in about["after"]
    assert about["interpolated"].startswith("0.5 · before + 0.5 · after")
    assert found.defaults == {"labels": ["lemon"], "car": {"x": 1}}


def test_parts_of_one_side_stay_only_beside_their_clip():
    before, after = _loaded(0, "old"), _loaded(1, "new", **_extra(1))
    half = interpolate(before, after, 0.5)
    assert not half.extras and "left out" in half.provenance["methods"]
    whole = interpolate(before, after, 1.0)
    assert set(whole.extras) == {"maft"} and "unchanged" in whole.provenance["methods"]
    # MAFT leaves the CLIP beside it as it was.
    tuned = _loaded(0, "new", **_extra(1))
    kept = interpolate(before, tuned, 0.5)
    np.testing.assert_array_equal(kept.extras["maft"]["a"]["b"], tuned.extras["maft"]["a"]["b"])


def _changed(part, **values):
    return dataclasses.replace(
        CLIP_MU, **{part: dataclasses.replace(getattr(CLIP_MU, part), **values)}
    )


@pytest.mark.parametrize(
    "after, told",
    [
        ({"config": _changed("vision", act="gelu")}, r"architecture\.vision\.act"),
        ({"config": _changed("text", causal=False)}, r"architecture\.text\.causal"),
        ({"preprocess": dataclasses.replace(PREPROCESS, resize="squash")}, r"preparation\.resize"),
        ({"params": random_params(_changed("vision", width=64, mlp_width=128))}, "text|visual"),
        (_extra(1, (4,)), r"maft: a/b.*\[3\].*\[4\]"),
        (_extra(1, start=2), r"maft\.start.*1 before and 2 after"),
        (_extra(1, count=5), "whole numbers"),
    ],
)
def test_differences_are_named(after, told):
    with pytest.raises(UserError, match=f"before and after: .*({told})|({told})"):
        interpolate(_loaded(0, "old", **_extra(0)), _loaded(1, "new", **after), 0.5)


def test_another_tokenizer_and_another_alpha_are_refused():
    before, after = _loaded(0, "old"), _loaded(1, "new")
    other = tokenizer()
    other.pad = 3
    with pytest.raises(UserError, match=r"tokenizer\.pad"):
        interpolate(before, dataclasses.replace(after, tokenizer=other), 0.5)
    for alpha in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="alpha"):
            interpolate(before, after, alpha)
    # A fine-tuning renames its model; that is no difference.
    renamed = dataclasses.replace(after, config=dataclasses.replace(CLIP_MU, name="tuned"))
    assert interpolate(before, renamed, 0.5).config.name == "tuned"

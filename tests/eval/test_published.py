"""Published numbers: each has a source, and the table in the docs is the one that they make."""

from pathlib import Path

import pytest

from openseg_jax.errors import UserError
from openseg_jax.eval import published
from openseg_jax.eval.confusion import CONVENTIONS

DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"
NUMBERS = published.published_numbers()


def test_every_number_names_its_source_and_its_settings():
    assert NUMBERS
    for one in NUMBERS:
        assert one.title and one.where and one.read and one.settings and one.backbone, one
        assert one.url.startswith("https://"), one
        assert one.metric in published.METRICS, one
        assert one.convention in (None, *CONVENTIONS), one
        assert 0 <= one.value <= 100 and float(one.printed) == one.value, one


def test_averages_that_abstracts_state_come_out():
    """SCLIP's abstract: 38.2 over eight benchmarks. NACLIP's README prints an average of 42.46."""
    for source, want in (("SCLIP (ECCV 2024)", 38.2), ("NACLIP, README", 42.46)):
        values = [one.value for one in NUMBERS if one.title.startswith(source)]
        assert len(values) == 8
        assert sum(values) / 8 == pytest.approx(want, abs=0.05)


def test_the_three_conventions_of_one_model_have_one_sum():
    """PC-459: 345 classes in the truth, 459 in all."""
    found = {
        one.convention: one.value
        for one in published.published("pc459", ["maft"], ["miou"])
        if one.backbone.startswith("ViT-B")
    }
    assert found["gt"] * 345 == pytest.approx(found["all"] * 459, rel=1e-3)
    assert found["all"] < found["union"] < found["gt"]


def test_numbers_are_found_by_method_and_by_variant():
    family = published.published("voc21", ["clip_dense"])
    assert {one.method for one in family} >= {"clip_dense/plain", "clip_dense/naclip"}
    assert all(one.method == "clip_dense/sclip" for one in published.published(
        "voc21", ["clip_dense/sclip"]))  # fmt: skip
    values = [one.value for one in family]
    assert values == sorted(values, reverse=True)
    ours = [one.method is None for one in published.published("voc21")]
    assert ours == sorted(ours) and any(ours)
    assert published.published("miniature") == ()


def test_the_table_in_the_docs_is_current():
    text = DOCS.read_text(encoding="utf-8")
    assert published.renew(text) == text, (
        "run: python -m openseg_jax.eval.published docs/evaluation.md"
    )


def test_the_command_renews_a_table(tmp_path):
    text = DOCS.read_text(encoding="utf-8")
    stale = tmp_path / "page.md"
    stale.write_text(text.replace("67.6", "99.9"), encoding="utf-8")
    assert published.main([str(stale)]) == 0
    assert stale.read_text(encoding="utf-8") == text
    stale.write_text("no marks", encoding="utf-8")
    with pytest.raises(UserError, match="put them in"):
        published.main([str(stale)])

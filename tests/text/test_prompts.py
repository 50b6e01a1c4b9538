import pytest

from openseg_jax.errors import UserError
from openseg_jax.text.prompts import TEMPLATES, canonicalize_text, fill, templates

# Specification of CaR, section 5.
CAR = [
    "a clean origami {}.",
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
]


def test_published_sets():
    assert list(templates("car15")) == CAR
    assert list(templates("vild14")) == CAR[1:]
    assert templates("car_origami") == ("a clean origami {}.",)
    assert templates("plain") == ("{}",)
    assert len(templates("openai80")) == len(set(templates("openai80"))) == 80
    assert templates("openai80")[0] == "a bad photo of a {}."
    assert templates("openai80")[-1] == "a tattoo of the {}."


def test_every_set_has_a_source_and_one_place_for_the_name():
    for group in TEMPLATES.values():
        assert group.source
        for template in group.templates:
            assert fill(template, "x").count("x") == 1 + template.count("x")


def test_unknown_set_offers_the_closest():
    with pytest.raises(UserError, match="did you mean 'openai80'"):
        templates("openai8")


def test_names_with_braces_stay_as_they_are():
    assert fill("a {}.", "{} {0} {name}") == "a {} {0} {name}."


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{0}"])
def test_templates_without_one_place_are_refused(template):
    with pytest.raises(UserError, match=r"one \{\} for the class name"):
        fill(template, "zebra")


def test_canonicalize():
    assert canonicalize_text("A Photo_of:  the (big)  ZEBRA's!") == "a photo of the big zebras"
    assert canonicalize_text("a {}, b.", keep="{},") == "a {}, b"

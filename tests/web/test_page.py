"""The page as it is laid out, without a browser."""

import pytest

from openseg_jax.web.limits import Limits
from openseg_jax.web.models import Models, Programs, allowed

pytestmark = pytest.mark.slow


def laid_out(*given):
    """Returns the page's parts by their names in it."""
    pytest.importorskip("gradio", reason="run: pip install -e '.[web]'")
    from openseg_jax.web.page import Service, build

    table = allowed([*given, "miniature"])
    page = build(Service(Models(table), Programs(), Limits(), at_once=1))
    return {part.elem_id: part for part in page.blocks.values() if getattr(part, "elem_id", None)}


def test_alone_the_miniature_is_chosen_and_photographs_need_more():
    parts = laid_out()
    assert parts["os-model"].value == "miniature" and not parts["os-model"].interactive
    assert "openseg serve --model NAME" in parts["os-choose"].value


def test_the_first_model_that_was_named_is_chosen(tiny_model):
    parts = laid_out(str(tiny_model))
    model = parts["os-model"]
    assert model.value == "tiny" and model.interactive
    assert [name for name, _ in model.choices] == ["tiny", "miniature"]
    assert "choose it for them" in parts["os-choose"].value
    # Settings are those that the first weights recommend; SegCLIP's, which they are not, those of
    # the miniature.
    alone = laid_out()
    knobs = [name for name in alone if name.startswith(("os-car.", "os-segclip."))]
    changed = [name for name in knobs if parts[name].value != alone[name].value]
    assert changed and all(name.startswith("os-car.") for name in changed)

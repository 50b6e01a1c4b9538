"""Prompt templates: named sets, each with its source, and the cleaning of prompts.

A template is a sentence with "{}" where the class name goes. A classifier's weight for a class is
the mean over a set, so every set is part of a published number: do not edit one, add one.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Iterable

from openseg_jax.errors import UserError, unknown_name


@dataclasses.dataclass(frozen=True)
class TemplateSet:
    """A named set of templates.

    Attributes:
        source: where it was published.
        templates: sentences that contain "{}" once.
    """

    source: str
    templates: tuple[str, ...]


_VILD = (
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
)

_ORIGAMI = "a clean origami {}."

_OPENAI80 = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)

TEMPLATES: dict[str, TemplateSet] = {
    "plain": TemplateSet("the name alone", ("{}",)),
    "simple": TemplateSet("CLIP paper, section 3.1.4", ("a photo of a {}.",)),
    "car_origami": TemplateSet("CaR and CLIP-ES: background and later-step texts", (_ORIGAMI,)),
    "car15": TemplateSet("CaR's published semantic configs", (_ORIGAMI, *_VILD)),
    "vild14": TemplateSet("ViLD's 14 templates, as used by MAFT and others", _VILD),
    "openai80": TemplateSet("OpenAI's ImageNet prompts, github.com/openai/CLIP, MIT", _OPENAI80),
}


def templates(name: str) -> tuple[str, ...]:
    """Looks a template set up by name; unknown names raise UserError with the closest one."""
    if name not in TEMPLATES:
        unknown_name(name, TEMPLATES, "template set")
    return TEMPLATES[name].templates


def fill(template: str, name: str) -> str:
    """Puts a class name into a template. Braces in the name are kept as they are.

    Raises:
        UserError: for a template that does not contain "{}" exactly once.
    """
    if template.count("{}") != 1:
        raise UserError(
            f"template: expected one {{}} for the class name, got {template!r}; add it, "
            'e.g. "a photo of a {}."'
        )
    return template.replace("{}", name)


def canonicalize_text(text: str, *, keep: Iterable[str] = ()) -> str:
    """Cleans a prompt as SigLIP was evaluated: underscores to blanks, no punctuation, lower case.

    Args:
        text: any sentence.
        keep: punctuation marks to keep.

    Source: big_vision's `prompt_engineering.canonicalize_text`.
    """
    drop = "".join(set(string.punctuation) - set(keep))
    text = text.replace("_", " ").translate(str.maketrans("", "", drop))
    return " ".join(text.lower().split())

"""The caption grammar: true sentences that name a random part of what a picture shows."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from openseg_jax.miniature.render import Placement
from openseg_jax.miniature.world import STUFF_TABLE, THING_TABLE, THINGS

TEMPLATES: tuple[str, ...] = (
    "a clean origami {}.", "a photo of a {}.", "This is a photo of a {}",
    "There is a {} in the scene", "There is the {} in the scene", "a photo of a {} in the scene",
)  # fmt: skip
"""CaR's classifier prompts without a size word; with SIZED_TEMPLATES for each of SIZES, all 15."""

SIZED_TEMPLATES: tuple[str, ...] = (
    "a photo of a {size} {}.", "This is a photo of a {size} {}.",
    "There is a {size} {} in the scene.",
)  # fmt: skip

SIZES: tuple[str, ...] = ("small", "medium", "large")
_SIZE_LIMITS = (0.31, 0.42)  # of the picture's side

_FRAMES: tuple[str, ...] = (
    "{}", "{}", "a photo of {}", "a picture of {}", "this is {}", "here is {}", "we see {}",
    "there is {} in the scene", "an image of {}", "{} in the scene",
)  # fmt: skip
_PLACES: tuple[str, ...] = ("{} on the {}", "{} on {}", "{} and the {}", "{} in front of the {}")
_RELATIONS: dict[str, tuple[str, ...]] = {
    "left": ("{} left of {}", "{} to the left of {}"),
    "right": ("{} right of {}", "{} to the right of {}"),
    "above": ("{} above {}",),
    "below": ("{} below {}", "{} under {}"),
}
_STUFF_FRAMES: tuple[str, ...] = (
    "{}", "the {}", "a photo of {}", "a picture of the {}", "only {}", "there is {} in the scene",
)  # fmt: skip
_COUNTS: tuple[str, ...] = ("one", "two", "three", "four", "five")
_GLUE: tuple[str, ...] = ("a", "an", "the", "and", "some", "with", ",", ".")


def split(text: str) -> list[str]:
    """Splits a text into the words of the vocabulary: lower case, punctuation apart.

    Args:
        text: any text.
    Returns:
        words and single punctuation marks.
    """
    return re.findall(r"\w+|[^\w\s]", text.lower())


def vocabulary() -> list[str]:
    """Lists every word that the grammar can produce.

    Returns:
        sorted words, lower case, punctuation marks included; a closed set.
    """
    parts = [*TEMPLATES, *SIZED_TEMPLATES, *SIZES, *_FRAMES, *_PLACES, *_STUFF_FRAMES, *_COUNTS]
    parts += [*_GLUE, *(text for texts in _RELATIONS.values() for text in texts)]
    parts += [noun for thing in THING_TABLE for pair in thing.nouns for noun in pair]
    parts += [noun for stuff in STUFF_TABLE for noun in stuff.nouns]
    texts = (part.replace("{size}", " ").replace("{}", " ") for part in parts)
    return sorted({word for text in texts for word in split(text)})


def templates() -> list[str]:
    """Lists CaR's 15 prompts with "{}" where the name goes."""
    sized = [text.replace("{size}", size) for size in SIZES for text in SIZED_TEMPLATES]
    return [*TEMPLATES, *sized]


def size_word(placement: Placement, size: int) -> str:
    """Says how large a thing is in its picture.

    Args:
        placement: the thing.
        size: side of the picture, pixels.
    Returns:
        "small", "medium" or "large": by its whole extent over the picture's side.
    """
    extent = 2.0 * placement.radius / size
    return SIZES[sum(extent >= limit for limit in _SIZE_LIMITS)]


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.random() * len(options))]


def _noun(rng: np.random.Generator, thing: int, plural: bool = False) -> str:
    nouns = THING_TABLE[thing - 1].nouns
    # half of the time the canonical name, which the gates use
    pair = nouns[0] if rng.random() < 0.5 else nouns[int(rng.random() * len(nouns))]
    return pair[plural]


def _stuff_noun(rng: np.random.Generator, stuff: int) -> str:
    nouns = STUFF_TABLE[stuff - len(THINGS) - 1].nouns
    return nouns[0] if rng.random() < 0.5 else _pick(rng, nouns)


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _counted(rng: np.random.Generator, thing: int, count: int) -> str:
    """Names a kind: "two lemons" only for exactly two, "a lemon" for one or more."""
    if count == 1 or rng.random() < 0.2:
        noun = _noun(rng, thing)
        return f"one {noun}" if count == 1 and rng.random() < 0.1 else _with_article(noun)
    noun = _noun(rng, thing, plural=True)
    return f"some {noun}" if rng.random() < 0.25 else f"{_COUNTS[count - 1]} {noun}"


def thing_caption(
    rng: np.random.Generator, placement: Placement, stuff: Sequence[int], size: int
) -> str:
    """Captions one thing: a CaR prompt, its bare name, or a short phrase.

    Args:
        rng: source of chance.
        placement: the thing named.
        stuff: semantic ids of the stuff in the picture.
        size: side of the picture, pixels.
    Returns:
        lower-case caption.
    """
    noun, chance = _noun(rng, placement.thing), rng.random()
    if chance < 0.35:
        return _pick(rng, TEMPLATES).format(noun).lower()
    if chance < 0.60:
        text = _pick(rng, SIZED_TEMPLATES)
        return text.format(noun, size=size_word(placement, size)).lower()
    if chance < 0.75:
        return noun
    phrase = _with_article(noun)
    if len(stuff) == 1 and rng.random() < 0.5:
        phrase = _pick(rng, _PLACES).format(phrase, _stuff_noun(rng, stuff[0]))
    return _pick(rng, _FRAMES).format(phrase)


def stuff_caption(rng: np.random.Generator, stuff: Sequence[int], bare: bool = True) -> str:
    """Captions stuff: a CaR prompt, its bare name, or a short phrase.

    Args:
        rng: source of chance.
        stuff: semantic ids of the stuff in the picture, one or two.
        bare: nothing stands on it, so that "only grass" is true.
    Returns:
        lower-case caption.
    """
    named = stuff[int(rng.random() * len(stuff))]
    noun, chance = _stuff_noun(rng, named), rng.random()
    if chance < 0.4:
        return _pick(rng, TEMPLATES).format(noun).lower()
    if len(stuff) == 2 and chance < 0.75:
        other = _stuff_noun(rng, stuff[0] if named == stuff[1] else stuff[1])
        return _pick(rng, _FRAMES).format(f"{noun} and {other}")
    alone = bare and len(stuff) == 1
    texts = _STUFF_FRAMES if alone else [t for t in _STUFF_FRAMES if "only" not in t]
    return _pick(rng, texts).format(noun)


def _relation(rng: np.random.Generator, first: Placement, second: Placement) -> str | None:
    """Says how two things lie to each other, or None where that is not clear."""
    across, down = first.x - second.x, first.y - second.y
    if max(abs(across), abs(down)) < 1.5 * min(abs(across), abs(down)) + 4.0:
        return None
    if abs(across) > abs(down):
        word = "left" if across < 0 else "right"
    else:
        word = "above" if down < 0 else "below"
    texts = _pick(rng, _RELATIONS[word])
    names = [_with_article(_noun(rng, placement.thing)) for placement in (first, second)]
    return texts.format(*names)


def scene_caption(
    rng: np.random.Generator, things: Sequence[Placement], stuff: Sequence[int], size: int
) -> str:
    """Captions a scene by a random part of it.

    Args:
        rng: source of chance.
        things: what is visible.
        stuff: semantic ids of its stuff.
        size: side of the picture, pixels.
    Returns:
        lower-case caption; all that it says is true, and it may leave out anything.
    """
    if not things or rng.random() < 0.06:
        return stuff_caption(rng, stuff, bare=not things)
    order = rng.permutation(len(things))
    if rng.random() < 0.22:
        return thing_caption(rng, things[order[0]], stuff, size)
    counts: dict[int, int] = {}
    for index in order:
        counts[things[index].thing] = counts.get(things[index].thing, 0) + 1
    kinds = list(counts)
    if len(kinds) > 1 and rng.random() < 0.12:
        pair = [next(p for p in things if p.thing == kind) for kind in kinds[:2]]
        unique = all(counts[kind] == 1 for kind in kinds[:2])
        text = _relation(rng, *pair) if unique else None
        if text is not None:
            return text
    # mostly all of the scene, else a random part: both teach presence
    named = kinds if rng.random() < 0.55 else kinds[: 1 + int(rng.random() * len(kinds))]
    phrases = [_counted(rng, kind, counts[kind]) for kind in named]
    phrase = phrases[0]
    if len(phrases) > 1:
        joint = " with " if len(phrases) == 2 and rng.random() < 0.2 else " and "
        phrase = ", ".join(phrases[:-1]) + joint + phrases[-1]
    if len(stuff) == 1 and rng.random() < 0.5:
        phrase = _pick(rng, _PLACES).format(phrase, _stuff_noun(rng, stuff[0]))
    elif len(stuff) == 2 and rng.random() < 0.5:
        seen = [_stuff_noun(rng, kind) for kind in stuff[: 1 + int(rng.random() * 2)]]
        phrase = f"{phrase} with " + " and ".join(seen)
    return _pick(rng, _FRAMES).format(phrase)

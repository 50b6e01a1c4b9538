"""The miniature world's facts: what exists, how it looks, what it is called.

Every picture of this world is computed, so it carries no licence but the library's own. A thing is
known by two colours, a texture and an outline together. Outlines alone are never decisive: a tiny
CLIP learns colour within minutes, coarse texture within an hour and bare outline not at all, so
things of one colour pair differ in texture *and* outline.
"""

from __future__ import annotations

import dataclasses

WORLD_SEED = 20240229
"""Root of every random stream of the world; changing it makes another world."""

RGB = tuple[int, int, int]

BLACK, WHITE = (24, 22, 26), (244, 242, 238)
RED, ORANGE, YELLOW = (206, 24, 34), (240, 122, 16), (248, 210, 24)
LEAF, DARK_GREEN, PURPLE = (52, 150, 36), (14, 92, 62), (110, 36, 130)
BLUE, PINK, BROWN, RUST = (24, 60, 200), (246, 120, 178), (108, 62, 28), (168, 70, 44)
GOLD, CREAM = (240, 186, 40), (216, 206, 196)


@dataclasses.dataclass(frozen=True)
class Thing:
    """Signature of a countable kind.

    Attributes:
        name: canonical singular name.
        colours: main and second colour, sRGB in [0, 255].
        texture: key of `shapes.TEXTURES`; says where the second colour is.
        pitch: the texture's length in units of the thing's half size (half a period for stripes,
            spacing of dots, radius of a core, ...).
        outline: key of `shapes.OUTLINES`.
        nouns: (singular, plural) pairs, the canonical name first, then synonyms.
    """

    name: str
    colours: tuple[RGB, RGB]
    texture: str
    pitch: float
    outline: str
    nouns: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Stuff:
    """Signature of an uncountable kind.

    Attributes:
        name: canonical name.
        colour: mean colour, sRGB in [0, 255].
        accent: colour added where the texture is at its peak, in sRGB steps.
        grain: correlation lengths (vertical, horizontal) of the soft texture, in pixels.
        nouns: names without an article, the canonical one first, then synonyms.
    """

    name: str
    colour: RGB
    accent: RGB
    grain: tuple[float, float]
    nouns: tuple[str, ...]


def _thing(
    name: str, first: RGB, second: RGB, texture: str, pitch: float, outline: str, *nouns: str
) -> Thing:
    """Builds a signature; nouns are "singular/plural", by default the name and name + "s"."""
    pairs = [tuple(noun.split("/")) for noun in (nouns or (f"{name}/{name}s",))]
    return Thing(name, (first, second), texture, pitch, outline, tuple((s, p) for s, p in pairs))


THING_TABLE: tuple[Thing, ...] = (
    _thing("zebra", WHITE, BLACK, "stripes", 0.34, "animal"),
    _thing(
        "football",
        WHITE,
        BLACK,
        "dots",
        1.05,
        "disc",
        "football/footballs",
        "soccer ball/soccer balls",
    ),
    _thing(
        "chessboard",
        WHITE,
        BLACK,
        "checks",
        0.45,
        "square",
        "chessboard/chessboards",
        "checkerboard/checkerboards",
    ),
    _thing("penguin", BLACK, WHITE, "core", 0.50, "egg"),
    _thing("lighthouse", WHITE, RED, "bands", 0.40, "tower"),
    _thing(
        "toadstool",
        RED,
        WHITE,
        "dots",
        0.92,
        "mushroom",
        "toadstool/toadstools",
        "mushroom/mushrooms",
    ),
    _thing("target", WHITE, RED, "rings", 0.34, "disc", "target/targets", "bullseye/bullseyes"),
    _thing("tiger", ORANGE, BLACK, "stripes", 0.34, "animal"),
    _thing("basketball", ORANGE, BLACK, "cross", 0.15, "disc"),
    _thing("bee", YELLOW, BLACK, "stripes", 0.34, "oval", "bee/bees", "bumblebee/bumblebees"),
    _thing("ladybird", RED, BLACK, "dots", 0.92, "disc", "ladybird/ladybirds", "ladybug/ladybugs"),
    _thing("strawberry", RED, LEAF, "cap", 0.42, "drop", "strawberry/strawberries"),
    _thing("watermelon", RED, DARK_GREEN, "rim", 0.24, "bowl"),
    _thing("lemon", YELLOW, LEAF, "tip", 0.50, "lens"),
    _thing("carrot", ORANGE, LEAF, "cap", 0.45, "cone"),
    _thing(
        "clownfish",
        ORANGE,
        WHITE,
        "stripes",
        0.32,
        "fish",
        "clownfish/clownfish",
        "anemonefish/anemonefish",
    ),
    _thing("brick", RUST, CREAM, "bricks", 0.46, "slab"),
    _thing("egg", WHITE, YELLOW, "core", 0.48, "blob", "egg/eggs", "fried egg/fried eggs"),
    _thing("sunflower", YELLOW, BROWN, "core", 0.46, "petals"),
    _thing(
        "aubergine", PURPLE, LEAF, "cap", 0.52, "pear", "aubergine/aubergines", "eggplant/eggplants"
    ),
    _thing("present", PURPLE, GOLD, "cross", 0.19, "square", "present/presents", "gift/gifts"),
    _thing("doughnut", PINK, BROWN, "rim", 0.20, "ring", "doughnut/doughnuts", "donut/donuts"),
    _thing("cactus", DARK_GREEN, YELLOW, "bands", 0.28, "cactus", "cactus/cacti"),
    _thing("beachball", BLUE, YELLOW, "wedges", 3.0, "disc"),
)

STUFF_TABLE: tuple[Stuff, ...] = (
    Stuff("grass", (112, 156, 62), (26, 30, 16), (4.0, 1.2), ("grass", "lawn")),
    Stuff("sand", (212, 184, 136), (18, 18, 20), (1.4, 1.4), ("sand", "beach")),
    Stuff("water", (34, 122, 150), (26, 36, 36), (1.8, 9.0), ("water", "sea")),
    Stuff("sky", (138, 190, 238), (34, 22, 6), (8.0, 16.0), ("sky",)),
    Stuff("snow", (222, 232, 244), (18, 13, 8), (6.0, 6.0), ("snow",)),
    Stuff("road", (104, 102, 108), (16, 16, 16), (1.0, 1.0), ("road", "asphalt")),
)

THINGS: tuple[str, ...] = tuple(thing.name for thing in THING_TABLE)
STUFF: tuple[str, ...] = tuple(stuff.name for stuff in STUFF_TABLE)
CLASS_NAMES: tuple[str, ...] = THINGS + STUFF
"""Semantic id i (1-based) is CLASS_NAMES[i - 1]; id 0 means unlabelled and never occurs."""

UNSEEN_THINGS: tuple[str, ...] = (
    "chessboard",
    "toadstool",
    "tiger",
    "carrot",
    "egg",
    "present",
    "beachball",
)
"""Things whose masks are never shown to a segmenter in training; captions do name them."""

SEEN_THINGS: tuple[str, ...] = tuple(name for name in THINGS if name not in UNSEEN_THINGS)


def synonyms() -> dict[str, tuple[str, ...]]:
    """Lists every singular name of each class, the canonical name first."""
    table = {thing.name: tuple(noun for noun, _ in thing.nouns) for thing in THING_TABLE}
    return table | {stuff.name: stuff.nouns for stuff in STUFF_TABLE}


def class_id(name: str) -> int:
    """Finds the semantic id of a name or synonym.

    Args:
        name: a singular name such as "ladybug"; case is ignored.
    Returns:
        id in [1, 30].
    Raises:
        UserError: when the world has no such class.
    """
    names = synonyms()
    for index, canonical in enumerate(CLASS_NAMES):
        if name.strip().lower() in names[canonical]:
            return index + 1
    from openseg_jax.errors import unknown_name

    choices = tuple(noun for nouns in names.values() for noun in nouns)
    unknown_name(name, choices, "miniature class")

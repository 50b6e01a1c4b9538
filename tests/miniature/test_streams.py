"""Streams: fixed, disjoint, and exact in their masks and captions."""

import re

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.miniature import captions, prompts, shapes, streams, world
from openseg_jax.miniature.render import MIN_VISIBLE, Canvas, Placement


def _scenes(count=60, stream="val"):
    return [streams.scene(stream, index) for index in range(count)]


def test_same_index_same_scene():
    first, again = streams.scene("train", 7), streams.scene("train", 7)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.instance, again.instance)
    assert (first.things, first.caption) == (again.things, again.caption)
    image, caption = streams.training_example(7)
    image_again, caption_again = streams.training_example(7)
    np.testing.assert_array_equal(image, image_again)
    assert caption == caption_again


def test_streams_and_seeds_are_disjoint():
    keys = [
        streams.scene(stream, index, seed=seed).image.tobytes()
        for stream in ("train", "val", "test")
        for seed in (0, 1)
        for index in range(10)
    ]
    assert len(set(keys)) == len(keys)


def test_shapes_and_types():
    scene = streams.scene("test", 0, 80)
    assert scene.image.shape == (80, 80, 3) and scene.image.dtype == np.uint8
    assert scene.semantic.dtype == scene.instance.dtype == np.int32
    image, caption = streams.training_example(0)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8 and caption == caption.lower()


def test_masks_are_exact():
    for scene in _scenes():
        assert 1 <= len(scene.things) <= 5
        assert scene.instance.max() == len(scene.things)
        for number, thing in enumerate(scene.things, start=1):
            mask = scene.instance == number
            assert (scene.semantic[mask] == thing.thing).all()
            area = shapes.area(world.THING_TABLE[thing.thing - 1].outline) * thing.radius**2
            assert mask.sum() >= MIN_VISIBLE * area
        behind = scene.semantic[scene.instance == 0]
        assert set(np.unique(behind)) <= set(range(25, 31))
        assert scene.semantic.min() >= 1


def test_mask_follows_the_paint():
    """A thing painted on one stuff changes colours inside its mask and nowhere else."""

    def paint(with_thing):
        canvas = Canvas(64, np.random.default_rng(3))
        canvas.paint_stuff((world.class_id("snow"),))
        if with_thing:
            canvas.place(Placement(world.class_id("aubergine"), 30.0, 34.0, 18.0, 0.3))
        return canvas._planes.copy(), canvas.finish()[2]

    bare, _ = paint(False)
    painted, instance = paint(True)
    changed = np.abs(painted - bare).max(0)
    assert (changed[instance == 1] > 30.0).all()
    untouched = changed == 0.0
    assert untouched[instance == 0].mean() > 0.9  # but for the one soft pixel of the outline


def test_a_thing_never_hides_another():
    canvas = Canvas(64, np.random.default_rng(0))
    canvas.paint_stuff((25,))
    assert canvas.place(Placement(2, 32.0, 32.0, 10.0))
    assert not canvas.place(Placement(3, 32.0, 32.0, 20.0))
    assert not canvas.place(Placement(3, -100.0, 32.0, 20.0))
    assert len(canvas.placed) == 1 and canvas.finish()[2].max() == 1


def _named(caption):
    """Finds (class id, plural, count word) of every noun in a caption, longest nouns first."""
    nouns = []
    for kind, thing in enumerate(world.THING_TABLE, start=1):
        for singular, plural in thing.nouns:
            nouns += [(singular, kind, False), (plural, kind, plural != singular)]
    for kind, stuff in enumerate(world.STUFF_TABLE, start=25):
        nouns += [(noun, kind, False) for noun in stuff.nouns]
    found = []
    for noun, kind, plural in sorted(nouns, key=lambda item: -len(item[0])):
        for match in re.finditer(rf"(\w+ )?\b{noun}\b", caption):
            found.append((kind, plural, (match.group(1) or "").strip()))
        caption = re.sub(rf"\b{noun}\b", "#", caption)
    return found


def test_captions_are_true():
    numbers = {"two": 2, "three": 3, "four": 4, "five": 5}
    for scene in _scenes(300, "train"):
        counts = {}
        for thing in scene.things:
            counts[thing.thing] = counts.get(thing.thing, 0) + 1
        named = _named(scene.caption)
        assert named, scene.caption
        for kind, plural, before in named:
            assert kind in counts or kind in scene.stuff, scene.caption
            if before in numbers:
                assert counts[kind] == numbers[before], scene.caption
            assert not plural or counts[kind] > 1, scene.caption
        relation = re.fullmatch(r"(.+?) (?:to the )?(left|right) of (.+)", scene.caption)
        if relation:
            first, second = (_named(relation.group(part))[0][0] for part in (1, 3))
            where = {thing.thing: thing.x for thing in scene.things}
            assert (where[first] < where[second]) == (relation.group(2) == "left")
        if re.search(r"\b(small|medium|large)\b", scene.caption):
            words = {captions.size_word(t, 96) for t in scene.things if t.thing == named[0][0]}
            assert re.search(r"\b(small|medium|large)\b", scene.caption).group() in words
        assert "only" not in scene.caption


def test_crop_centres_the_thing():
    for scene in _scenes(20):
        for number in range(len(scene.things)):
            piece = streams.crop(scene, number)
            assert piece.shape[0] == piece.shape[1] <= 96
            assert streams.crop(scene, number, 64).shape == (64, 64, 3)
    scene = streams.scene("val", 0)
    wide = streams.crop(scene, 0, context=9.0)
    np.testing.assert_array_equal(wide, scene.image)


def test_presence_and_supervision():
    assert len(world.UNSEEN_THINGS) >= 6
    assert set(world.SEEN_THINGS) | set(world.UNSEEN_THINGS) == set(world.THINGS)
    hidden = {world.class_id(name) for name in world.UNSEEN_THINGS}
    met = 0
    for scene in _scenes():
        present = streams.presence(scene)
        assert {t.thing for t in scene.things} == {i + 1 for i in np.flatnonzero(present[:24])}
        shown = streams.supervised(scene.semantic)
        assert not hidden & set(np.unique(shown))
        met += int((shown == 0).any())
        np.testing.assert_array_equal(shown[shown > 0], scene.semantic[shown > 0])
    assert met > 5


def test_among_limits_the_things():
    for index in range(20):
        scene = streams.scene("train", index, among=(1, 3))
        assert {thing.thing for thing in scene.things} <= {1, 3}


def test_wrong_names_are_user_errors():
    with pytest.raises(UserError, match="zebra"):
        world.class_id("zebbra")
    with pytest.raises(UserError, match="train"):
        streams.scene("trian", 0)
    assert world.class_id("Ladybug") == world.class_id("ladybird")


def test_prompts_leave_the_inside_alone():
    rng = np.random.default_rng(0)
    scene = streams.scene("val", 1)
    mask = scene.instance == 1
    core = mask & ~(np.asarray(prompts._ellipse(mask)))
    for _ in range(10):
        marked = prompts.mark(rng, scene.image, mask)
        assert marked.dtype == np.uint8 and marked.shape == scene.image.shape
        changed = (marked != scene.image).any(-1)
        assert changed.any()
        assert changed[core].mean() < 0.35


def test_every_class_occurs_in_training_captions():
    words = set()
    for index in range(600):
        words |= {kind for kind, _, _ in _named(streams.training_example(index, 32)[1])}
    assert words == set(range(1, 31))

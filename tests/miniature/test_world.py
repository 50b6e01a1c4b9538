"""The table of signatures: complete, and never told apart by outline alone."""

import subprocess
import sys

import numpy as np

from openseg_jax.miniature import shapes, world


def test_signatures_are_complete_and_distinct():
    assert len(world.THINGS) == 24 and len(world.STUFF) == 6
    assert len(set(world.CLASS_NAMES)) == 30
    nouns = [noun for names in world.synonyms().values() for noun in names]
    assert len(set(nouns)) == len(nouns)
    for thing in world.THING_TABLE:
        assert thing.nouns[0][0] == thing.name
        assert thing.outline in shapes.OUTLINES and thing.texture in shapes.TEXTURES


def test_no_two_things_differ_by_outline_alone():
    looks = [
        (frozenset(t.colours), t.texture) if t.texture != "core" else (t.colours, t.texture)
        for t in world.THING_TABLE
    ]
    assert len(set(looks)) == len(looks)


def test_outlines_stay_within_reach_and_have_unit_slope():
    axis = np.linspace(-1.6, 1.6, 161, dtype=np.float32)
    u, v = np.meshgrid(axis, axis)
    for name, outline in shapes.OUTLINES.items():
        distance = outline(u, v)
        assert distance[np.hypot(u, v) > shapes.REACH].min() > 0.0, name
        rows, columns = np.gradient(distance, axis[1] - axis[0])
        edge = np.abs(distance) < 0.05
        assert 0.5 < np.median(np.hypot(rows, columns)[edge]) < 2.0, name
        assert 0.8 < shapes.area(name) < 3.2, name


def test_textures_show_both_colours():
    axis = np.linspace(-1.0, 1.0, 101, dtype=np.float32)
    u, v = np.meshgrid(axis, axis)
    for thing in world.THING_TABLE:
        depth = shapes.OUTLINES[thing.outline](u, v)
        weight = shapes.TEXTURES[thing.texture](u, v, depth, thing.pitch, 0.05)
        assert weight.min() >= 0.0 and weight.max() <= 1.0
        share = weight[depth < 0.0].mean()
        assert 0.1 < share < 0.75, (thing.name, share)


def test_importing_the_package_loads_nothing():
    code = (
        "import sys, openseg_jax.miniature as m;"
        "assert not any(x.startswith('openseg_jax.miniature.') for x in sys.modules);"
        "assert m.class_id('zebra') == 1; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

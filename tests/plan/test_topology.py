"""Names of machines, and the numbers of what they are made of."""

from __future__ import annotations

import math

import pytest

from openseg_jax.errors import UserError
from openseg_jax.plan.chips import CHIPS
from openseg_jax.plan.topology import names_of, parse, topologies


@pytest.mark.parametrize(
    ("name", "full", "chips", "devices"),
    [
        ("v5e:16x16", "v5e:16x16", 256, 256),
        ("v5e-16", "v5e:4x4", 16, 16),
        ("v5litepod-64", "v5e:8x8", 64, 64),
        ("v6e-256", "v6e:16x16", 256, 256),
        # These count TensorCores, two a chip.
        ("v4-512", "v4:4x8x8", 256, 256),
        ("v5p-128", "v5p:4x4x4", 64, 64),
        ("tpu7x-8", "tpu7x:2x2x1", 4, 8),
        ("h100:8", "h100:8x1", 8, 8),
        ("a100:8x4", "a100:8x4", 32, 32),
    ],
)
def test_names(name, full, chips, devices):
    machine = parse(name)
    assert (machine.full, machine.chips, machine.devices) == (full, chips, devices)


def test_every_short_name_is_as_large_as_it_says():
    for chip in CHIPS.values():
        if chip.kind != "tpu":
            continue
        for name in names_of(chip):
            machine = parse(name)
            counted = machine.chips * (2 if chip.counts == "cores" else 1)
            assert counted == int(name.rpartition("-")[2])
            assert len(machine.shape) == chip.axes


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("v5e-250", "v5e-256"),
        ("v4-500", "v4-512"),
        ("v5e:4x4x4", "2 axes"),
        ("v4:16x16", "3 axes"),
        ("h100-8", "h100:8"),
        ("h100:16", "at most 8"),
        ("v5e:32x32", "at most 256"),
        ("v5e:0x4", "1 or more"),
        ("pentium", "known"),
        ("", "known"),
    ],
)
def test_mistakes_name_the_way_out(name, hint):
    with pytest.raises(UserError, match="--topology") as error:
        parse(name)
    assert hint in str(error.value)


def test_chips_are_plausible_and_have_sources():
    for chip in CHIPS.values():
        assert chip.usable <= chip.hbm
        assert all("http" in s or "between boxes" in s for s in chip.sources) and chip.sources
        if chip.kind == "tpu":
            assert "docs.cloud.google.com" in chip.sources[0]
            assert chip.name in chip.sources[0]
        # Products an element of memory traffic: hundreds of FLOPs a byte in all of them.
        assert 100 < chip.flops / chip.hbm_rate < 700
        assert chip.hbm_rate > chip.link_rate
        assert math.isfinite(chip.flops)


def test_all_short_names_are_read_back():
    for name in topologies():
        assert parse(name).chips >= 1

"""The scaling page's table is copied from the table of plans, and stays equal to it."""

from __future__ import annotations

import pytest

from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
PLANS = (ROOT / "launch/plans.md").read_text(encoding="utf-8")


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def rows(text, start):
    """The rows of the first table whose head begins with some cells."""
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if line.startswith("|") and cells(line)[: len(start)] == start:
            end = next((j for j in range(i, len(lines)) if not lines[j].startswith("|")), None)
            return [dict(zip(cells(line), cells(row), strict=True)) for row in lines[i + 2 : end]]
    raise AssertionError(f"no table that starts with {start}")


def planned(slice_name):
    part = PLANS.split(f"## {slice_name}:")[1]
    return {(row[""], row["batch"]): row for row in rows(part, ["", "batch", "fits"])}


SHOWN = rows(PAGE, ["model", "batch", "slice"])
COPIED = ("fits", "GiB a chip", "ms", "acc.", "fsdp")


@pytest.mark.parametrize("row", SHOWN, ids=lambda row: f"{row['model']} {row['slice']}")
def test_row(row):
    found = planned(row["slice"])[row["model"], row["batch"]]
    assert {key: row[key] for key in COPIED} == {key: found[key] for key in COPIED}


def test_a_wrong_row_would_be_seen():
    assert len(SHOWN) >= 8
    row = SHOWN[0]
    others = [r for name in ("v5e-16", "v5e-64") for r in planned(name).values()]
    assert all(any(row[key] != other[key] for key in COPIED) for other in others)


def test_the_example_in_the_text():
    small, large = (planned(name)["SegCLIP ViT-B/16", "768"] for name in ("v5e-16", "v5e-256"))
    for found in (small, large):
        assert (
            f"{found['ms']} ms" in PAGE and f"{found['util.'].split(',')[1].strip()[:-1]} %" in PAGE
        )

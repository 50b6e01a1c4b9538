"""The table of plans is what its numbers say, and its rule is the one it states."""

from __future__ import annotations

import pytest

from launch import plans
from launch.plans_table import write_table
from openseg_jax.cli.main import Parser
from openseg_jax.cli.plan import add_arguments


def test_the_table_is_made_of_the_numbers():
    made = write_table(plans.ROWS, plans.MACHINES, plans.read())
    assert made == plans.TABLE.read_text(encoding="utf-8"), "run: python -m launch.plans --table"


def test_no_number_is_of_another_command():
    kept = plans.read()
    for cell in plans.cells():
        if cell.key in kept:
            assert kept[cell.key]["command"] == "openseg plan " + " ".join(cell.command())
    assert set(kept) <= {cell.key for cell in plans.cells()}


def test_what_must_fit_fits():
    kept = plans.read()["CLIP ViT-L/14 | 32768 | v5e-256 | full effort"]
    assert kept["fits"] and kept["full_effort"]
    assert kept["needed_bytes"] <= kept["limit_bytes"]


@pytest.mark.parametrize(
    ("name", "batch", "topology", "fsdp", "accumulate"),
    [
        ("CLIP ViT-L/14", 32768, "v5e-256", 1, 1),
        ("CLIP ViT-L/14", 65536, "v5e-256", 1, 4),
        ("CLIP ViT-L/14", 65536, "v6e-256", 1, 1),
        ("CLIP ViT-H/14", 32768, "v5e-16", 2, 64),
        ("CLIP ViT-H/14", 32768, "v5p-128", 1, 4),
        ("SegCLIP ViT-B/16", 8192, "v5e-16", 1, 1),
    ],
)
def test_the_rule(name, batch, topology, fsdp, accumulate):
    row = next(r for r in plans.ROWS if (r.name, r.batch) == (name, batch))
    assert plans.Cell(row, topology).choices() == (fsdp, accumulate)


def test_every_command_is_understood():
    parser = Parser(prog="openseg plan")
    add_arguments(parser)
    for cell in plans.cells():
        args = parser.parse(cell.command())
        assert args.topology == cell.topology and args.exact == cell.exact


def test_sixteen_pictures_are_too_few_for_many_chips():
    row = next(r for r in plans.ROWS if r.name == "MAFT stage 2")
    assert "multiple of 64" in (plans.refusal(plans.Cell(row, "v5e-64")) or "")
    assert plans.refusal(plans.Cell(row, "v5e-16")) is None

"""What the compiler says: its refusals, its numbers, and what follows from them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from openseg_jax.configs import base

from openseg_jax.errors import UserError
from openseg_jax.plan import report
from openseg_jax.plan.chips import CHIPS, GIB
from openseg_jax.plan.compiled import Measured, Memory, over_memory
from openseg_jax.plan.cost import Cost, Exchange
from openseg_jax.plan.roofline import gradient_bound, rate_of, roofline
from openseg_jax.plan.topology import parse
from openseg_jax.plan.training import Planned, check_batch, find_largest, for_platform

MESSAGES = Path(__file__).parent / "messages"


@pytest.mark.parametrize(
    ("file", "needed", "there"),
    [("libtpu_0_0_42.txt", 20.15, 15.75), ("libtpu_2024.txt", 63.80, 30.75)],
)
def test_refusals_of_the_compiler_are_read(file, needed, there):
    found = over_memory((MESSAGES / file).read_text(encoding="utf-8"))
    assert found == (int(needed * GIB), int(there * GIB))


def test_other_complaints_are_not_about_memory():
    assert over_memory("INVALID_ARGUMENT: shapes do not match") is None
    assert over_memory("RESOURCE_EXHAUSTED: in words that nobody has seen") == (0, 0)


def planned(batch: int, *, slope: int = 10**8, state: int = 4 * GIB, refuse_at: float = 1e18):
    """A plan of made-up numbers: memory is linear in the batch."""
    machine = parse("v5e-16")
    config = base.get_config().copy_and_resolve_references()
    config.batch_size = batch
    needed = state + batch * slope // 16
    refused = needed > min(machine.chip.usable, refuse_at)
    memory = None if refused else Memory(state, state, needed - state, state, 0)
    cost = None if refused else Cost(batch * 1e10, 1e9, (), 0, (), 0)
    message = "RESOURCE_EXHAUSTED: too much" if refused else ""
    measured = Measured(
        machine, state, 0, memory, needed, machine.chip.usable, message, cost, batch * 1.6e11,
        1.0, False,
    )  # fmt: skip
    mesh = {"data": 16, "fsdp": 1, "tensor": 1}
    return Planned(config, mesh, measured, batch * 1.2e11, 10**9, 10**9, 2e9)


@pytest.mark.parametrize("start", [16, 640, 4096, 100_000])
def test_the_largest_batch_is_found_with_few_compiles(start):
    asked = []

    def plan(batch):
        asked.append(batch)
        return planned(batch)

    found = find_largest(planned(start), plan)
    truth = int((15.75 * GIB - 4 * GIB) * 16 / 10**8) // 16 * 16
    assert found.verified and found.batch % 16 == 0
    assert truth * 15 / 16 <= found.batch <= truth
    assert len(asked) == found.compiles <= 3
    assert planned(found.batch).measured.fits


def test_a_state_that_does_not_fit_leaves_no_batch():
    found = find_largest(planned(16, state=20 * GIB), lambda batch: planned(batch, state=20 * GIB))
    assert found.batch == 0 and not found.verified
    assert "none" in report.largest_line(found)


def test_an_answer_says_what_to_change():
    text = report.plan_text(planned(65536))
    assert "DOES NOT FIT" in text
    assert "--accumulate 2" in text and "remat=full" in text and "--batch 32768" in text
    assert "negatives" not in text
    segclip = planned(65536)
    segclip.config.task.name = "segclip"
    assert "--accumulate 2: half the activations at once, but each part has no negatives" in (
        report.plan_text(segclip)
    )
    heavy = report.plan_text(planned(16, state=20 * GIB))
    assert "--mesh fsdp=2" in heavy
    assert report.plan_dict(planned(65536))["advice"]


def test_a_plan_that_fits_says_so_in_text_and_numbers():
    plan = planned(64)
    assert ": fits" in report.plan_text(plan)
    numbers = report.plan_dict(plan)
    assert numbers["fits"] and numbers["needed_bytes"] == plan.measured.memory.total
    assert numbers["roofline"]["bound"] == "compute"
    assert numbers["flops_model_all_devices"] < numbers["flops_traced_all_devices"]


def test_memory_counts_what_lies_twice_once():
    assert Memory(100, 80, 30, 80, 5).total == 135


def test_the_roofline_takes_the_longest():
    machine = parse("v5e-16")
    chip = machine.chip
    one = Exchange("all-reduce", 16, 1, 10, chip.link_rate * 3.0, ("f32",), "")
    found = roofline(machine, Cost(chip.flops * 2, chip.hbm_rate * 1, (one,), 0, (), 0), 16.0)
    assert (found.compute, found.memory, found.exchange) == pytest.approx((2, 1, 3))
    assert found.bound == "interconnect" and found.time == pytest.approx(3)
    full = roofline(machine, Cost(chip.flops, 0, (), 0, (), 0), chip.flops * 16)
    assert full.utilisation == full.most == pytest.approx(1.0)


def test_a_permutation_uses_one_link_and_boxes_their_adapters():
    turn = Exchange("collective-permute", 16, 1, 1, 1.0, (), "")
    assert rate_of(turn, parse("v5e-16")) == CHIPS["v5e"].link_rate / 4
    wide = Exchange("all-reduce", 32, 1, 1, 1.0, (), "")
    assert rate_of(wide, parse("h100:8x4")) == CHIPS["h100"].node_rate
    near = Exchange("all-reduce", 8, 1, 1, 1.0, (), "")
    assert rate_of(near, parse("h100:8x4")) == CHIPS["h100"].link_rate
    assert gradient_bound(8.0, 4) == 12.0


def test_a_batch_must_divide_among_devices_and_parts():
    config = base.get_config()
    config.batch_size, config.accumulate = 100, 2
    with pytest.raises(UserError, match=r"multiple of 32.*--batch 96"):
        check_batch(config, 16)
    config.batch_size = 96
    check_batch(config, 16)


def test_attention_is_chosen_for_the_machine_and_not_for_this_cpu():
    config = base.get_config()
    chosen = for_platform(config, SimpleNamespace(chip=CHIPS["v5e"]))
    assert (config.attention, chosen.attention) == ("auto", "xla")

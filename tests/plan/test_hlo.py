"""The walker: loops as often as they run, whatever XLA's own analysis says."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.plan.cost import (
    Shape,
    _valid_pairs,
    convolution_flops,
    cost_of,
    group_size,
    sent_bytes,
)
from openseg_jax.plan.hlo import parse, parse_shapes, walk
from openseg_jax.train.flops import count_flops
from tests.plan.programs import collectives, scan_of_products

# A loop as the TPU compiler leaves it: no trip count, the limit in the condition, a batched
# product written as a dilated convolution, one exchange in two fusions.
TPU = (Path(__file__).parent / "messages" / "tpu_loop.hlo").read_text(encoding="utf-8")


@pytest.mark.parametrize(("rounds", "inner"), [(5, 1), (3, 4)])
def test_products_in_loops_count_as_often_as_they_run(rounds, inner):
    text, jaxpr = scan_of_products(rounds, inner)
    cost = cost_of(parse(text))
    assert cost.flops == rounds * inner * 2 * 64**3
    assert cost.flops == count_flops(jaxpr)
    assert not cost.unknown


def test_counting_the_body_once_would_be_wrong():
    text, _ = scan_of_products(5, 1)
    once = sum(e.instruction.opcode in ("dot", "custom-call") for e in walk(parse(text)).executed)
    assert once * 2 * 64**3 < cost_of(parse(text)).flops


def test_a_loop_on_data_counts_once_and_is_named():
    def run(x):
        return jax.lax.while_loop(lambda x: x.sum() < 1e3, lambda x: x @ x, x)

    text = jax.jit(run).lower(jax.ShapeDtypeStruct((32, 32), jnp.float32)).compile().as_text()
    cost = cost_of(parse(text))
    assert cost.flops == 2 * 32**3
    assert len(cost.unknown) == 1


@pytest.mark.parametrize(
    ("kind", "times", "bytes_sent"),
    [
        ("all-reduce", 1, 2 * 7 / 8 * 4096),
        ("all-gather", 1, 7 * 4096),
        ("reduce-scatter", 1, 7 / 8 * 4096),
        ("all-to-all", 1, 7 / 8 * 4096),
        ("collective-permute", 7, 7 * 4096),
    ],
)
def test_exchange_of_eight_devices(kind, times, bytes_sent):
    cost = cost_of(parse(collectives()[kind]))
    assert {e.kind for e in cost.exchanges} == {kind}
    (found,) = cost.exchanges
    assert found.times == times
    assert cost.sent()[kind] == pytest.approx(bytes_sent)
    if kind != "collective-permute":
        assert found.group == 8


def test_a_tpu_program_without_trip_counts():
    module = parse(TPU)
    found = walk(module)
    assert found.loops == {"w": 12}
    cost = cost_of(module)
    # Two products of 8×16 by 16×8 each round: the dilated convolution's other taps are zeros.
    assert cost.flops == 12 * 2 * 2 * 8 * 16 * 8
    # One exchange, though two fusions hold it.
    assert cost.sent() == {"all-gather": 15 * 128}


def test_the_start_and_step_of_a_loop_count():
    text = TPU.replace("%zero = s32[]{:T(128)} constant(0)", "%zero = s32[]{:T(128)} constant(2)")
    text = text.replace("%one = s32[]{:T(128)} constant(1)", "%one = s32[]{:T(128)} constant(4)")
    assert walk(parse(text)).loops == {"w": 3}


def test_shapes_tell_fast_memory():
    near, far = parse_shapes(
        "(bf16[64,77,512]{2,1,0:T(8,128)(2,1)S(1)}, f32[12,512]{1,0:T(8,128)})"
    )
    assert near.fast and not far.fast
    assert (near.bytes, far.bytes) == (2 * 64 * 77 * 512, 4 * 12 * 512)


def test_a_padded_strided_convolution():
    # 1 picture of 5×5×3, kernel 3×3, 4 features, stride 2, padding 1: corner taps fall outside.
    flops = convolution_flops(
        Shape("f32", (1, 5, 5, 3)), Shape("f32", (3, 3, 3, 4)), Shape("f32", (1, 3, 3, 4)),
        "window={size=3x3 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_01io->b01f",
    )  # fmt: skip
    pairs = (2 + 3 + 2) ** 2
    assert flops == 2 * 4 * 3 * pairs


def test_valid_pairs_are_those_that_trying_all_finds():
    rng = np.random.default_rng(0)
    for _ in range(300):
        n, m, taps = (int(x) for x in rng.integers(1, 9, 3))
        stride, base, dilate = (int(x) for x in rng.integers(1, 8, 3))
        pad = int(rng.integers(-3, 6))
        at = np.arange(m)[:, None] * stride + np.arange(taps) * dilate - pad
        want = ((at >= 0) & (at <= (n - 1) * base) & (at % base == 0)).sum()
        assert _valid_pairs(n, m, taps, stride, pad, base, dilate) == want


def test_a_large_batch_as_an_axis_takes_no_memory():
    assert _valid_pairs(60_000, 60_000, 60_000, 59_999, 0, 60_000, 1) == 60_000


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4),
        ("replica_groups=[4,2]<=[8]", 2),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", 4),
        ("replica_groups=mesh['axis_0'=16,'axis_1'=2] {'axis_0','axis_1'}", 32),
        ("replica_groups=mesh['axis_0'=16] {'axis_0':(2)4}", 4),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}, dimensions={0}", 2),
        ("replica_groups={}", 8),
    ],
)
def test_three_notations_of_groups(text, size):
    assert group_size(text, 8) == size


def test_one_device_sends_nothing():
    assert sent_bytes("all-reduce", 100, 1) == 0

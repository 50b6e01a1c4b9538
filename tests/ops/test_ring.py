import functools
import json
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.ops.losses import same_caption, softmax_contrastive
from openseg_jax.ops.ring import Ring, scan_blocks
from openseg_jax.ops.ring_softmax import ring_softmax
from tests.ops.ring_cases import PARTS, example

# float32: products, exponentials and sums of 24 to 48 terms, each good to 6e-8, against float64.
# bfloat16 has 8 bits: the slopes of pairs are rounded once, and the results once more.
TOLERANCE = {"float32": 2e-6, "float64": 1e-13, "bfloat16": 2e-2, "equal-texts": 2e-6}


@functools.cache
def measured(*arguments: str) -> dict[str, Any]:
    """Runs the cases on 8 fake devices; compiled without optimisation, which takes a third."""
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.ring_cases", *arguments],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def judge(cases: dict[str, Any]) -> None:
    for label, case in cases.items():
        kind = label.split()[-1]
        for part in ("loss", *PARTS):
            assert case[part] <= TOLERANCE[kind], (label, part, case[part])
        assert case["hits"][0] == case["hits"][1], label
        real = "float32" if kind == "equal-texts" else kind
        assert case["kinds"][:2] == [real, real], "gradients come in the dtype of the inputs"


def judge_twins(found: dict[str, Any]) -> None:
    for name, twins in found["twins"].items():
        for label, case in twins.items():
            assert case["loss"] > 1e-2, (name, label)
            assert case["image"] > 1e-1 and case["text"] > 1e-1, (name, label)


def judge_memory(found: dict[str, Any]) -> None:
    for name, forms in found["memory"].items():
        (small, large), (plain_small, plain_large) = forms["ring"], forms["plain"]
        assert large <= 2.05 * small, name
        # the wrong variant: an array of all pairs
        assert plain_large >= 3.5 * plain_small and plain_large > 50 * large, name
        # 4096 rows of 16 float32 on 8 devices: the docstrings' bytes, and a few sums of one number
        texts, slopes, per_row = 16 * 4, 16 * 4, 16 + 8
        if name == "sigmoid":
            want = 7 * 512 * (texts + 8 + slopes)
        else:
            want = 7 * 512 * (texts + texts + slopes + per_row)
        assert want <= forms["sent"][0] <= want + 1000, (name, forms["sent"], want)


@pytest.mark.slow
def test_ring_equals_the_plain_form_on_eight_devices():
    judge(measured()["cases"])


@pytest.mark.slow
def test_wrong_rings_are_far_off():
    judge_twins(measured())


@pytest.mark.slow
def test_gradients_of_a_model_around_the_loss():
    assert max(measured()["larger"].values()) < 1e-12


@pytest.mark.slow
def test_memory_does_not_grow_with_the_square_of_the_batch():
    judge_memory(measured())


@pytest.mark.slow
def test_both_losses_on_every_mesh():
    found = measured("--all")
    judge(found["cases"])
    judge_twins(found)
    judge_memory(found)


def test_one_device_without_a_mesh_works_in_tiles():
    *args, caption = example(jnp.float32)
    image, text, scale, _ = args

    def tiled(image, text):
        return ring_softmax(image, text, scale, caption, Ring(block=16))[0]

    def plain(image, text):
        return softmax_contrastive(image, text, scale, same_caption(caption))

    got = jax.jit(jax.value_and_grad(tiled, argnums=(0, 1)))(image, text)
    want = jax.value_and_grad(plain, argnums=(0, 1))(image, text)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)


def test_blocks_of_rows_cover_a_ragged_end():
    rows = jnp.arange(11)

    def body(total, block):
        return total + block.sum(), 10 * block

    for block in (1, 3, 11, 99):
        total, tens = scan_blocks(body, jnp.int32(0), rows, block)
        assert int(total) == 55
        np.testing.assert_array_equal(tens, 10 * np.arange(11))


class _Mesh:
    """Stands for 8 devices, of which this process has one."""

    shape = {"data": 4, "fsdp": 2}  # noqa: RUF012


def test_mistakes_are_named():
    with pytest.raises(UserError, match=r"block: expected 1 row or more, got 0"):
        Ring(block=0)
    mesh: Any = _Mesh()
    with pytest.raises(UserError, match=r"axes: expected names of the mesh's axes, got .'model'"):
        Ring(mesh, ("data", "model"))
    with pytest.raises(UserError, match="multiple of 8 devices"):
        Ring(mesh, ("data", "fsdp")).check(12)
    with pytest.raises(UserError, match="no mesh"):
        Ring(None, ("data",))

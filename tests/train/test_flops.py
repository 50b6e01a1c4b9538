import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from openseg_jax.ops.attention import attention
from openseg_jax.ops.attention_kernels import splash_attention
from openseg_jax.train.flops import count_flops, fused_kernels
from openseg_jax.train.measures import describe_machine, device_memory, host_memory, peak_flops


def _count(f, *args):
    return count_flops(jax.make_jaxpr(f)(*args))


def test_products_and_convolutions():
    a, b = jnp.ones((2, 3, 5)), jnp.ones((2, 5, 7))
    assert _count(jnp.matmul, a, b) == 2 * (2 * 3 * 7) * 5
    image, kernel = jnp.ones((1, 8, 8, 3)), jnp.ones((4, 4, 3, 16))

    def patches(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert _count(patches, image, kernel) == 2 * (2 * 2 * 16) * (4 * 4 * 3)


def test_loops_count_as_often_as_they_run():
    def body(x, w):
        return jnp.tanh(x @ w), None

    def looped(x, ws):
        return jax.lax.scan(body, x, ws)[0].sum()

    def unrolled(x, ws):
        for w in ws:
            x = body(x, w)[0]
        return x.sum()

    x, ws = jnp.ones((4, 8)), jnp.ones((5, 8, 8))
    assert _count(looped, x, ws) == 5 * 2 * 4 * 8 * 8
    for f in (looped, unrolled):
        assert _count(jax.jit(jax.grad(f, (0, 1))), x, ws) == 3 * 5 * 2 * 4 * 8 * 8
    # What the compiler says of the loop: one body of it.
    said = jax.jit(looped).lower(x, ws).cost_analysis()["flops"]
    assert said < 2 * 2 * 4 * 8 * 8
    # Of what remat adds: the forward products once more, the last of which nobody needs again.
    again = _count(jax.grad(lambda x, ws: jax.checkpoint(looped)(x, ws)), x, ws)
    assert again > 2 * 5 * 2 * 4 * 8 * 8


def test_branches_and_what_each_device_does():
    x = jnp.ones((4, 4))
    chosen = _count(lambda p: jax.lax.cond(p, lambda: x @ x @ x, lambda: x), True)
    assert chosen == 2 * 2 * 4**3
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("data")
    each = jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=spec, out_specs=spec)
    assert _count(each, x) == 2 * 4**3


def test_fused_kernels_are_found_inside_loops():
    q = jnp.ones((1, 128, 1, 64))

    def looped(f):
        return jax.make_jaxpr(lambda q: jax.lax.scan(lambda x, _: (f(x, q, q), None), q, None, 2))

    fused = looped(lambda *x: splash_attention(*x, interpret=True))(q)
    assert fused_kernels(fused) == ("Pallas",)
    assert fused_kernels(looped(lambda *x: attention(*x, backend="xla"))(q)) == ()


@pytest.mark.parametrize(
    ("kind", "tera"),
    [
        ("TPU v4", 275), ("TPU v5 lite", 197), ("TPU v5", 459), ("TPU v5p", 459),
        ("TPU v6 lite", 918), ("NVIDIA H100 80GB HBM3", 989.4), ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-40GB", 312), ("Tesla T4", 65), ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362), ("Tesla V100-SXM2-16GB", 125), ("cpu", None),
    ],
)  # fmt: skip
def test_peaks_are_found_by_what_devices_call_themselves(kind, tera):
    peak = peak_flops(kind)
    assert peak is None if tera is None else peak == pytest.approx(tera * 1e12)


def test_measures_of_this_machine():
    machine = describe_machine()
    assert machine["versions"]["jax"] == jax.__version__ and machine["devices"] >= 1
    assert 0.01 < host_memory()["host_memory"] < 1000
    if jax.default_backend() == "cpu":
        assert device_memory() == {}
    else:
        assert np.isfinite(list(device_memory().values())).all()

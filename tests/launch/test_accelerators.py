"""TPU names as people, Google Cloud and XPK write them."""

import pytest

from launch.accelerators import accelerator
from openseg_jax.errors import UserError


@pytest.mark.parametrize(
    ("text", "cloud", "runtime", "several"),
    [
        ("v5e-256", "v5litepod-256", "v2-alpha-tpuv5-lite", True),
        ("v5litepod-16", "v5litepod-16", "v2-alpha-tpuv5-lite", True),
        ("V5E-8", "v5litepod-8", "v2-alpha-tpuv5-lite", False),
        ("v5p-128", "v5p-128", "v2-alpha-tpuv5", True),
        ("v5p-8", "v5p-8", "v2-alpha-tpuv5", False),
        ("v4-512", "v4-512", "tpu-ubuntu2204-base", True),
        ("v4-8", "v4-8", "tpu-ubuntu2204-base", False),
        ("v3-8", "v3-8", "tpu-ubuntu2204-base", False),
        ("v6e-256", "v6e-256", "v2-alpha-tpuv6e", True),
        ("v6e-1", "v6e-1", "v2-alpha-tpuv6e", False),
        ("tpu7x-64", "tpu7x-64", "", True),
        ("ironwood-64", "tpu7x-64", "", True),
    ],
)
def test_names(text, cloud, runtime, several):
    found = accelerator(text)
    assert (found.cloud, found.runtime, found.several_hosts) == (cloud, runtime, several)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("v5e", "as in v5e-16"),
        ("v7-8", "did you mean"),
        ("v5-e256", "v5e-256"),
        ("v6e-12", "powers of two"),
        ("v4-1", "powers of two"),
        ("h100", "a size follows the name"),
    ],
)
def test_what_is_none(text, hint):
    with pytest.raises(UserError, match=hint):
        accelerator(text)

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh
from openseg_jax.configs.base import get_config

from openseg_jax.train.program import make_program
from openseg_jax.train.sharding import AXES
from openseg_jax.train.sharding_report import describe_sharding, report_sharding, state_bytes
from tests.train.toy import Line

KERNEL = "text/blocks/mlp/c_fc/kernel"


class Big(Line):
    """A kernel that three axes share, a table that no axis divides, and something small."""

    def init(self, key, batch):
        kernel = {"text": {"blocks": {"mlp": {"c_fc": {"kernel": jnp.zeros((2, 8, 16))}}}}}
        return {**kernel, "odd": jax.ShapeDtypeStruct((3, 100_003), jnp.float32)}, {}


@pytest.fixture
def program():
    mesh = AbstractMesh((2, 4, 2), AXES)
    return make_program(get_config(), Big(), mesh, Big().init(None, None)[0])


def test_each_parameter_has_its_line(program):
    odd, kernel = describe_sharding(program)
    assert (odd.name, odd.rule, odd.spec) == ("odd", ".*", "copy")
    assert odd.device == odd.whole == 4 * 3 * 100_003
    assert (kernel.name, kernel.spec, kernel.shape) == (KERNEL, "· fsdp tensor", (2, 8, 16))
    assert re.fullmatch(kernel.rule, KERNEL) and kernel.dtype == "float32"
    assert kernel.whole == 8 * kernel.device == 4 * 2 * 8 * 16
    # Adam's two moments lie beside the parameters; its counts and the step are numbers.
    whole, device = state_bytes(program)
    assert 0 < whole - 3 * (odd.whole + kernel.whole) < 32
    assert 0 < device - 3 * (odd.device + kernel.device) < 32


def test_large_copies_are_named_and_all_is_written(program, tmp_path, caplog):
    report_sharding(program, (), tmp_path)
    assert "each device has a copy of odd 1.1 MiB" in caplog.text and KERNEL not in caplog.text
    text = (tmp_path / "sharding.md").read_text()
    assert "Mesh: data 2 × fsdp 4 × tensor 2. 2 parameters" in text
    assert "| odd | 3×100003 | float32 | `.*` | copy | 1,200,036 |" in text
    assert "\\|" in next(line for line in text.splitlines() if KERNEL in line)


def test_copies_are_as_they_should_be_without_fsdp(tmp_path, caplog):
    mesh = AbstractMesh((8, 1, 1), AXES)
    program = make_program(get_config(), Big(), mesh, Big().init(None, None)[0])
    report_sharding(program, (), tmp_path)
    assert "copy of" not in caplog.text

"""The loop on eight devices, in two processes, and killed in the middle."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.eval.colours import SIZES, Pictures
from tests.eval.test_evaluate import evaluator, independent
from tests.ports import held_port

pytestmark = pytest.mark.slow

RUN = """
import json, sys, time
import jax
from openseg_jax.eval.evaluate import Evaluator, Options
from tests.eval.colours import SIZES, TEXTS, Colours, Pictures, benchmark

class Slow(Pictures):
    def read(self, index):
        time.sleep({pause})
        return super().read(index)

one = Evaluator(
    Colours(), benchmark(), Slow(SIZES * {times}), TEXTS, method="colours", model="none",
    options=Options(batch={batch}, threads=1),
)
found = one.run(workdir={workdir!r})
print(json.dumps([len(one.labeller.devices), jax.process_count(), found.matrix.tolist(),
                  [row.name for row in found.rows]]))
"""


REAL = """
import json
import jax
from openseg_jax.eval.benchmarks import texts_for
from openseg_jax.eval.evaluate import Evaluator, Options
from openseg_jax.eval.miniature_benchmark import miniature
from openseg_jax.methods.base import load_segmenter

bench, source = miniature("miniature_things", 4)
segmenter, texts = load_segmenter("{method}", "miniature"), texts_for(bench, "{method}")
print(json.dumps([
    Evaluator(
        segmenter, bench, source, texts, method="{method}", model="miniature",
        options=Options(batch=2, devices=jax.devices()[:count]),
    ).run().matrix.tolist()
    for count in (1, 2)
]))
"""


def start(*, pause=0.0, times=1, batch=2, workdir=None, before="", **environment):
    code = before + RUN.format(pause=pause, times=times, batch=batch, workdir=workdir)
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
    )  # fmt: skip


def finish(child):
    out, error = child.communicate(timeout=900)
    assert child.returncode == 0, error
    return json.loads(out.splitlines()[-1])


def test_eight_devices_share_each_batch():
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    devices, _, matrix, names = finish(start(XLA_FLAGS=flags))
    assert devices == 8
    np.testing.assert_array_equal(matrix, independent(Pictures(SIZES)))
    assert names == [item.name for item in Pictures(SIZES).items]


@pytest.mark.parametrize("method", ["maft", "clip_dense"])
def test_two_devices_agree_with_one(method):
    code = REAL.format(method=method)
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
    )  # fmt: skip
    alone, shared = map(np.array, finish(child))
    # The same arithmetic but for the compiler: a pixel on the edge may fall either way.
    assert np.abs(alone - shared).sum() <= 0.002 * alone.sum()
    assert alone.sum() == shared.sum() > 0


def test_two_processes_add_up_exactly(tmp_path):
    join = "import jax\njax.distributed.initialize('localhost:{}', 2, {})\n"
    with held_port() as port:
        children = [
            start(
                before=join.format(port, process), workdir=str(tmp_path / str(process)),
                JAX_CPU_COLLECTIVES_IMPLEMENTATION="gloo",
            )
            for process in (0, 1)
        ]  # fmt: skip
        found = [finish(child) for child in children]
    for devices, processes, matrix, names in found:
        assert (devices, processes) == (1, 2)
        np.testing.assert_array_equal(matrix, independent(Pictures(SIZES)))
        assert names == [item.name for item in Pictures(SIZES).items]
    lines = [len(x.read_text().splitlines()) - 1 for x in sorted(tmp_path.glob("*/*.jsonl"))]
    assert lines == [len(range(process, len(SIZES), 2)) for process in (0, 1)]


def test_killed_runs_count_nothing_twice(tmp_path):
    times = 6
    child = start(pause=0.1, times=times, batch=1, workdir=str(tmp_path))
    deadline = time.monotonic() + 600
    while sum(x.read_bytes().count(b"\n") for x in tmp_path.glob("*.jsonl")) < 5:
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    source = Pictures(SIZES * times)
    found = evaluator(source, batch=1, threads=1).run(workdir=tmp_path)
    assert 4 <= found.provenance["resumed"] < len(source)
    np.testing.assert_array_equal(found.matrix, independent(source))

"""Runs CaR on the golden recurrences, whatever folder they come from, and keeps the traces."""

from __future__ import annotations

import dataclasses
import functools
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from openseg_jax.methods.car import CaR, CarResult
from openseg_jax.methods.car_config import configure
from openseg_jax.methods.car_refer import referring
from openseg_jax.methods.car_texts import CarText, from_embeddings
from tests import golden
from tests.car.models import embed_ids, golden_clip


@dataclasses.dataclass(frozen=True)
class Trace:
    """One run beside its golden: `steps[i]` is what our step i saw."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    car: CaR
    text: CarText
    result: CarResult
    steps: list[dict[str, Any]]


def number(arrays: dict[str, np.ndarray], key: str) -> float:
    """Reads a stored float32 as the decimal number that its config spelled."""
    return float(str(arrays[key].astype(np.float32)))


def models(folder: Path, meta: dict[str, Any]) -> tuple[Any, Any]:
    """Loads the CAM's and the classifier's weights that a case names."""
    names = meta.get("models", ["weights_cam", "weights_cls"])
    return golden_clip(names[0], folder), golden_clip(names[1], folder)


def settings_of(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> dict[str, Any]:
    """Collects thresholds and prompts, from the arrays or the json, wherever a case has them."""
    written = {**meta.get("common", {}), **meta.get("cfg", {})}
    found = {}
    for key in ("mask_threshold", "confidence_threshold", "clipes_threshold", "bg_factor"):
        if f"in/{key}" in arrays:
            found[key] = number(arrays, f"in/{key}")
        elif key in written:
            found[key] = written[key]
    kinds = meta.get("visual_prompt") or written.get("visual_prompt_type")
    return found | ({"visual_prompts": tuple(kinds)} if kinds else {})


def is_refer(arrays: dict[str, np.ndarray]) -> bool:
    """Tells the referring cases: their classifier texts come step by step."""
    return "in/tok_sem" not in arrays


def texts_of(arrays: dict[str, np.ndarray], names: Any, cam: Any, cls: Any) -> CarText:
    """Encodes a case's token ids."""
    later = None
    if is_refer(arrays):
        first = embed_ids(cls, arrays["out/step0/tok_sem"])
        step, count = 1, first.shape[1]
        while f"out/step{step}/tok_sem" in arrays:
            ids, alive = arrays[f"out/step{step}/tok_sem"], arrays[f"out/step{step}/alive"]
            if later is None:
                later = np.ones((ids.shape[0], count, first.shape[-1]), np.float32)
                later[:, alive] = embed_ids(cls, ids)
            step += 1
    else:
        first = embed_ids(cls, arrays["in/tok_sem"])
    background = embed_ids(cam, arrays["in/tok_bg"]) if "in/tok_bg" in arrays else None
    return from_embeddings(
        embed_ids(cam, arrays["in/tok_cam"]), first, raw=embed_ids(cam, arrays["in/tok_raw"]),
        background=background, later=later, names=names, templated=not is_refer(arrays),
    )  # fmt: skip


def prepare(path: Path, **wrong: Any) -> tuple[dict[str, np.ndarray], dict[str, Any], CaR, CarText]:
    """Builds a case with parity settings; `wrong` replaces some, to show that tests can fail."""
    arrays, meta = golden.load(path)
    cam, cls = models(path.parent, meta)
    config = configure(parity="reference", **settings_of(arrays, meta))
    if is_refer(arrays):
        config = referring(config)
    car = CaR(cam, cls, dataclasses.replace(config, **wrong))
    return arrays, meta, car, texts_of(arrays, meta.get("texts", ()), cam, cls)


def run(path: Path, **wrong: Any) -> Trace:
    """Runs a case and keeps what every step saw."""
    arrays, meta, car, text = prepare(path, **wrong)
    steps: list[dict[str, Any]] = []
    result = car.predict(arrays["in/image"], text, observe=steps.append)
    return Trace(arrays, meta, car, text, result, steps)


@functools.lru_cache(maxsize=16)
def right(path: Path) -> Trace:
    """Runs a case as it should be, once a session, in a process that compiles as for users.

    The traces decide by thresholds, and some decisions of the goldens lie within rounding: a cell
    of `recurrence_0` falls to the other side of a byte with unoptimised code, as it does in
    float64. The suite's own processes compile without optimisation.
    """
    quick = ("--xla_backend_optimization_level", "--xla_cpu_use_fusion_emitters")
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if not f.startswith(quick)]
    environment = {**os.environ, "XLA_FLAGS": " ".join(flags)}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "trace.pickle"
        words = [sys.executable, "-m", "tests.car.traces", str(path), str(out)]
        root = Path(__file__).parents[2]
        done = subprocess.run(words, env=environment, cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        result, steps = pickle.loads(out.read_bytes())
    return Trace(*prepare(path), result, steps)


if __name__ == "__main__":
    trace = run(Path(sys.argv[1]))
    Path(sys.argv[2]).write_bytes(pickle.dumps((trace.result, trace.steps)))

"""MAFT golden: the deformable pixel decoder (5e-5) and its position embedding (1e-6)."""

import jax
import numpy as np
import pytest

from openseg_jax.models import pixel_decoder as module
from openseg_jax.models.pixel_decoder import PixelDecoder
from openseg_jax.ops.posembed import sine_positions
from tests import golden
from tests.maft.decoders import channels_first, pixel_case

CASES = golden.cases("maft", "pixel_decoder")
TOLERANCE = 5e-5


def run(config, params, features) -> dict[str, np.ndarray]:
    masks, maps = jax.jit(PixelDecoder(config).apply)({"params": params}, features)
    named = {f"multi_scale{i}": x for i, x in enumerate(maps)} | {"mask_features": masks}
    return {name: channels_first(x) for name, x in named.items()}


def worst(got: dict[str, np.ndarray], arrays: dict[str, np.ndarray]) -> float:
    wanted = {k: arrays[f"out/{k}"] for k in got if f"out/{k}" in arrays}
    assert wanted
    return max(float(np.abs(got[k] - want).max()) for k, want in wanted.items())


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_maft_golden_pixel_decoder(path):
    arrays, _ = golden.load(path)
    config, features, params = pixel_case(path)
    assert worst(run(config, params, features), arrays) < TOLERANCE


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_maft_golden_sine_positions(path):
    arrays, _ = golden.load(path)
    found = [k for k in arrays if k.startswith("out/pos_embed")]
    for name in found:
        _, channels, h, w = arrays[name].shape
        got = channels_first(sine_positions(h, w, channels)[None])
        np.testing.assert_allclose(got, arrays[name], atol=1e-6)


@pytest.mark.skipif(not CASES, reason="the folder holds no pixel decoder")
@pytest.mark.parametrize("wrong", ["centres", "order"])
def test_maft_golden_pixel_decoder_can_fail(monkeypatch, wrong):
    config, features, params = pixel_case(CASES[0])
    if wrong == "centres":
        # Corners of the cells for their centres: half a cell off, as with aligned corners.
        def corners(sizes):
            return module_centres(sizes) - np.concatenate([
                np.full((h * w, 2), 0.5 / np.array([w, h])) for h, w in sizes
            ]).astype(np.float32)  # fmt: skip

        module_centres = module.query_centres
        monkeypatch.setattr(module, "query_centres", corners)
    if wrong == "order":
        monkeypatch.setattr(
            module, "sine_positions", lambda h, w, d: np.roll(sine_positions(h, w, d), d // 2, -1)
        )
    arrays, _ = golden.load(CASES[0])
    assert worst(run(config, params, features), arrays) > 10 * TOLERANCE

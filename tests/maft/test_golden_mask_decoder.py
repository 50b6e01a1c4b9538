"""MAFT golden: text interaction and masked-attention decoder (5e-5)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.models import mask_decoder
from openseg_jax.models.mask_decoder import MaskDecoder
from openseg_jax.models.text_interaction import TextInteraction
from tests import golden
from tests.maft.decoders import MaskCase, channels_first, mask_case

CASES = golden.cases("maft", "mask_decoder")
TOLERANCE = 5e-5


def run(case: MaskCase) -> dict[str, np.ndarray]:
    """Runs both parts."""
    looks = TextInteraction(case.interaction, case.decoder.width)

    def forward(params, inputs, text):
        maps: Any = looks.apply({"params": params["interaction"]}, inputs, text)
        variables = {"params": params["decoder"]}
        return maps, MaskDecoder(case.decoder).apply(variables, maps[:-1], maps[-1])

    maps, out = jax.jit(forward)(case.params, case.maps, case.text)
    names = [f"multi_scale{i}" for i in range(len(maps) - 1)] + ["mask_features"]
    got = {f"interaction.{k}": channels_first(x) for k, x in zip(names, maps, strict=True)}
    embed, masks = np.stack(out["class_embed"]), np.stack(out["masks"])
    unit = embed[-1] / np.linalg.norm(embed[-1], axis=-1, keepdims=True)
    text = case.text / np.linalg.norm(case.text, axis=-1, keepdims=True)
    return got | {
        "pred_class_embedding": embed[-1],
        "pred_masks": masks[-1],
        "aux_class_embedding": embed[:-1],
        "aux_masks_sub2": masks[:-1, :, :, ::2, ::2],
        "class_logits_temp100": 100 * unit @ text.T,
    }


def worst(got: dict[str, np.ndarray], arrays: dict[str, np.ndarray]) -> float:
    """Returns the largest error; the logits' is divided by their factor 100."""
    scale = {"class_logits_temp100": 0.01}
    wanted = {k.removeprefix("out/"): v for k, v in arrays.items() if k.startswith("out/")}
    assert set(wanted) <= set(got)
    return max(float(np.abs(got[k] - v).max()) * scale.get(k, 1) for k, v in wanted.items())


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_maft_golden_mask_decoder(path):
    assert worst(run(mask_case(path)), golden.load(path)[0]) < TOLERANCE


@pytest.mark.skipif(not CASES, reason="the folder holds no mask decoder")
def test_maft_golden_interaction_can_fail():
    # Rows normalised once for all maps, where the reference normalises them again for each.
    case, arrays = mask_case(CASES[0]), golden.load(CASES[0])[0]
    looks = TextInteraction(case.interaction, case.decoder.width)
    variables = {"params": case.params["interaction"]}
    got = jax.jit(lambda x: looks.apply(variables, [x], case.text))(case.maps[-1])
    error = np.abs(channels_first(got[0]) - arrays["out/interaction.mask_features"]).max()  # type: ignore
    assert error > 10 * TOLERANCE


@pytest.mark.skipif(not CASES, reason="the folder holds no mask decoder")
def test_maft_golden_decoder_can_fail(monkeypatch):
    # Attention to the whole map, where the reference keeps to the last predicted mask.
    case, arrays = mask_case(CASES[0]), golden.load(CASES[0])[0]

    def everywhere(embed, small):
        return jnp.ones((*embed.shape[:2], small.shape[1] * small.shape[2]), bool)

    monkeypatch.setattr(mask_decoder, "_admitted", everywhere)
    names = [f"multi_scale{i}" for i in range(case.decoder.levels)] + ["mask_features"]
    maps = [arrays[f"out/interaction.{name}"].transpose(0, 2, 3, 1) for name in names]
    variables = {"params": case.params["decoder"]}
    run: Any = jax.jit(MaskDecoder(case.decoder).apply)
    got = run(variables, maps[:-1], maps[-1])["masks"][-1]
    assert np.abs(got - arrays["out/pred_masks"]).max() > 10 * TOLERANCE


@pytest.mark.skipif(not CASES, reason="the folder holds no mask decoder")
def test_padded_text_rows_change_nothing():
    case, arrays = mask_case(CASES[0]), golden.load(CASES[0])[0]
    looks = TextInteraction(case.interaction, case.decoder.width)
    padded = np.concatenate([case.text, np.full((3, case.text.shape[1]), 7, np.float32)])
    valid = np.arange(len(padded)) < len(case.text)
    variables = {"params": case.params["interaction"]}
    got: Any = jax.jit(looks.apply)(variables, case.maps[:1], padded, valid)
    want = arrays["out/interaction.multi_scale0"]
    np.testing.assert_allclose(channels_first(got[0]), want, atol=TOLERANCE)

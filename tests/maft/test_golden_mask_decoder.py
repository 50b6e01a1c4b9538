"""MAFT golden: text interaction and masked-attention decoder (5e-5)."""

import dataclasses

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


def run(case: MaskCase, stale_text: bool = False) -> dict[str, np.ndarray]:
    """Runs both parts; `stale_text` gives every map the rows normalised once only."""
    looks = TextInteraction(case.interaction, case.decoder.width)

    def forward(params, maps, text):
        apply = lambda maps: looks.apply({"params": params["interaction"]}, maps, text)  # noqa: E731
        maps = [apply([x])[0] for x in maps] if stale_text else apply(maps)
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
@pytest.mark.parametrize("wrong", ["text", "mask", "heads"])
def test_maft_golden_mask_decoder_can_fail(monkeypatch, wrong):
    case = mask_case(CASES[0])
    if wrong == "mask":

        def everywhere(embed, small):
            return jnp.ones((*embed.shape[:2], small.shape[1] * small.shape[2]), bool)

        monkeypatch.setattr(mask_decoder, "_admitted", everywhere)
    if wrong == "heads":
        decoder = dataclasses.replace(case.decoder, heads=case.decoder.heads * 2)
        case = dataclasses.replace(case, decoder=decoder)
    got = run(case, stale_text=wrong == "text")
    assert worst(got, golden.load(CASES[0])[0]) > 10 * TOLERANCE


@pytest.mark.skipif(not CASES, reason="the folder holds no mask decoder")
def test_padded_text_rows_change_nothing():
    case = mask_case(CASES[0])
    looks = TextInteraction(case.interaction, case.decoder.width)
    apply = jax.jit(looks.apply)
    want = apply({"params": case.params["interaction"]}, case.maps, case.text)
    padded = np.concatenate([case.text, np.full((3, case.text.shape[1]), 7, np.float32)])
    valid = np.arange(len(padded)) < len(case.text)
    got = apply({"params": case.params["interaction"]}, case.maps, padded, valid)
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)

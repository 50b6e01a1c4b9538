"""CaR golden: visual prompts (exact in every byte)."""

import jax
import numpy as np
import pytest

from openseg_jax.ops import visual_prompts
from tests import golden

CASES = golden.cases("car", "prompts")


def kinds_of(name: str) -> tuple[str, ...]:
    return tuple(name.removeprefix("out/delta_").split("_"))


def deltas(path):
    arrays, _ = golden.load(path)
    masks = golden.unpack(arrays["in/masks"], tuple(arrays["in/masks_shape"]))
    for name in arrays:
        if name.startswith("out/delta_"):
            chosen = masks[arrays[name.replace("delta", "idx")]]
            yield kinds_of(name), arrays["in/image"], chosen, arrays[name]


EACH = [
    pytest.param(p, kinds, id=f"{p.stem}-{'+'.join(kinds)}")
    for p in CASES
    for kinds, *_ in deltas(p)
]


@pytest.mark.parametrize("path, wanted", EACH)
def test_car_golden_prompts(path, wanted):
    for kinds, image, masks, delta in deltas(path):
        if kinds == wanted:
            draw = jax.jit(
                lambda i, m: visual_prompts.draw_prompts(i, m, wanted, swapped_gray=True)
            )
            got = np.asarray(draw(image, masks)).astype(np.int16)
            np.testing.assert_array_equal(got - image.astype(np.int16), delta)


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_car_golden_mask_geometry(path):
    arrays, _ = golden.load(path)
    masks = golden.unpack(arrays["in/masks"], tuple(arrays["in/masks_shape"]))
    got = np.stack(jax.vmap(visual_prompts.mask_geometry)(masks), axis=1)
    np.testing.assert_array_equal(got, arrays["out/mask_cyxhw"])


def test_car_golden_prompts_can_fail():
    differs = {}
    for path in CASES:
        for kinds, image, masks, delta in deltas(path):
            want = delta + image.astype(np.int16)

            def wrong(kinds, image=image, masks=masks, want=want, **flags):
                drawn = visual_prompts.draw_prompts(image, masks, kinds, **flags)
                return bool((np.asarray(drawn) != want).any())

            if "gray" in kinds:
                right = wrong(kinds, swapped_gray=False)
                differs["right luma weights"] = differs.get("right luma weights") or right
                other = tuple("black" if k == "gray" else k for k in kinds)
                differs["black for gray"] = differs.get("black for gray") or wrong(other)
            if "circle" in kinds:
                other = tuple(k for k in kinds if k != "circle")
                without = wrong(other, swapped_gray=True)
                differs["no circle"] = differs.get("no circle") or without
    if not differs:
        pytest.skip("the folder holds no gray and no circle prompts")
    assert all(differs.values()), differs


@pytest.mark.parametrize("path", golden.cases("car", "recurrence"), ids=lambda p: p.stem)
def test_car_golden_last_prompted(path):
    arrays, meta = golden.load(path)
    if "out/last_prompted" not in arrays:
        pytest.skip("the case stores no prompted images")
    last = int(arrays["out/num_steps"]) - 1
    maps = arrays[f"out/step{last}/masks"]
    masks, use = visual_prompts.masks_from_maps(maps, arrays["in/mask_threshold"])
    packed = golden.unpack(arrays[f"out/step{last}/prompt_mask"], maps.shape)
    np.testing.assert_array_equal(masks, packed)
    got = visual_prompts.draw_prompts(
        arrays["in/image"], masks, tuple(meta["visual_prompt"]), use=use, swapped_gray=True
    )
    np.testing.assert_array_equal(got, arrays["out/last_prompted"])

"""MAFT golden: the mask-aware image encoder, its token masks and its blocks."""

import functools

import jax
import numpy as np
import pytest

from openseg_jax.models import ip_clip
from openseg_jax.ops.token_masks import reference_grid, token_masks
from tests import golden
from tests.maft import towers

FILES = golden.cases("maft", "ipclip_visual")
ATOL = 1e-4


def _cases(masked):
    for path in FILES:
        for name, case in golden.load(path)[1]["cases"].items():
            if (case["N"] is not None) == masked:
                yield pytest.param(path, name, id=f"{path.stem}-{name}")


@functools.cache
def setup(path):
    a, meta = golden.load(path)
    state = {k.removeprefix("w/"): v for k, v in a.items() if k.startswith("w/")}
    return a, meta["cases"], *towers.visual(state, meta["config"])


def grid_of(tower, image):
    patch = tower.config.patch_size
    return image.shape[1] // patch, image.shape[2] // patch


def encode(path, name, *, masks=None, **wrong):
    a, cases, tower, params = setup(path)
    image = towers.pixels(a[f"in/{name}.image_u8"])
    settings = {"start": cases[name]["start_layers"], **wrong}

    def method(visual, image, masks):
        return ip_clip.ip_encode(visual, image, masks, **settings)

    run = jax.jit(lambda p: tower.apply({"params": p}, image, masks, method=method))
    return np.asarray(run(params))


def masks_of(path, name):
    a, cases, tower, _ = setup(path)
    soft = a[f"in/{name}.masks_f16"].astype(np.float32)
    soft = soft[:, None] if soft.ndim == 3 else soft
    grid = grid_of(tower, towers.pixels(a[f"in/{name}.image_u8"]))
    if cases[name]["reference_quirk"]:
        grid = reference_grid(grid)
    return np.asarray(token_masks(soft, grid))


@pytest.mark.parametrize(("path", "name"), _cases(True))
def test_maft_golden_masked_embeddings(path, name):
    a = setup(path)[0]
    masks = masks_of(path, name)
    np.testing.assert_array_equal(masks, a[f"out/{name}.token_mask"])
    want = a[f"out/{name}.cls"]
    got = encode(path, name, masks=masks)
    got = got[:, 0] if want.ndim == 2 else got
    np.testing.assert_allclose(got, want, atol=ATOL)


@pytest.mark.parametrize(("path", "name"), _cases(False))
def test_maft_golden_unmasked(path, name):
    a, cases, tower, params = setup(path)
    image, start = towers.pixels(a[f"in/{name}.image_u8"]), cases[name]["start_layers"]

    def method(visual, image, convention=ip_clip.POSITIONS):
        tokens = ip_clip.split_trunk(visual, image, start=start, convention=convention)
        if cases[name]["return_cls"]:
            return ip_clip.plain_tail(visual, tokens, start=start)
        patches = visual.project(visual.post(visual.run(tokens, start)[:, 1:]))
        return patches.reshape(len(image), *grid_of(visual, image), -1)

    both = jax.jit(
        lambda p: [
            tower.apply({"params": p}, image, convention, method=method)
            for convention in (ip_clip.POSITIONS, "bicubic")
        ]
    )
    got, wrong = both(params)
    want = a[f"out/{name}.{'cls' if cases[name]['return_cls'] else 'patches'}"]
    np.testing.assert_allclose(got, want, atol=ATOL)
    # The test can fail: another rule for positions is another encoder.
    assert np.abs(wrong - want).max() > 100 * ATOL


def _with_blocks():
    for path in FILES:
        arrays, meta = golden.load(path)
        for name in meta["cases"]:
            if f"out/{name}.block0_b0" in arrays:
                yield pytest.param(path, name, id=f"{path.stem}-{name}")


@pytest.mark.parametrize(("path", "name"), _with_blocks())
def test_maft_golden_every_block(path, name):
    a, cases, tower, params = setup(path)
    start, depth = cases[name]["start_layers"], tower.config.depth
    image = towers.pixels(a[f"in/{name}.image_u8"])[:1]
    masks = masks_of(path, name)[:1]

    def method(visual, image):
        tokens = visual.embed(image, convention=ip_clip.POSITIONS)
        for index in range(depth):
            if index < start:
                tokens = visual.run(tokens, index, index + 1)
                yield tokens
            else:
                trunk = ip_clip.split_trunk(visual, image, start=start)
                yield ip_clip.masked_blocks(visual, trunk, masks, start=start, stop=index + 1)

    def everything(visual, image):
        blocks = list(method(visual, image))
        return blocks, visual.project(visual.post(blocks[-1][:, masks.shape[1] :]))

    run = jax.jit(lambda p: tower.apply({"params": p}, image, method=everything))
    blocks, patches = run(params)
    for index, got in enumerate(blocks):
        want = a[f"out/{name}.block{index}_b0"]
        np.testing.assert_allclose(got, want, atol=2 * ATOL, err_msg=f"block {index}")
    if f"out/{name}.patches" in a:
        want = a[f"out/{name}.patches"][:1]
        np.testing.assert_allclose(np.asarray(patches).reshape(want.shape), want, atol=ATOL)


@pytest.mark.parametrize(("path", "name"), list(_with_blocks()))
def test_maft_golden_visual_test_can_fail(path, name):
    a, cases, _, _ = setup(path)
    masks, want = masks_of(path, name), a[f"out/{name}.cls"]
    start = cases[name]["start_layers"]
    for wrong in ({"start": start + 1}, {"masks": ~masks}):
        got = encode(path, name, **{"masks": masks, **wrong})
        assert np.abs(got - want).max() > 100 * ATOL, wrong

"""Segment Anything against transformers on random models, and its parts without torch."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.models.sam import Sam, fit, fitted_size, normalise, point_grid
from openseg_jax.models.sam_decoder import Enlarge
from openseg_jax.models.sam_encoder import whole, windows
from openseg_jax.weights.sam import config_from_json, load_sam
from tests.weights.sam_side import CASES, ODD, drawn, save
from tests.weights.torch_side import libraries

# float32's 6e-8 a rounding, over some hundred additions in a row through about ten layers.
TOLERANCE = 1e-5


def close(got, want):
    np.testing.assert_allclose(got, want, atol=TOLERANCE * np.abs(want).max())


@functools.cache
def prompts(side, mask_side):
    """Points of every label, boxes, one mask prompt and pixels."""
    rng = np.random.default_rng(0)
    labels = np.array([[1, 0], [1, 1], [0, -1], [1, -10], [-1, 1]])
    boxes = np.sort(rng.uniform(0, side, (5, 2, 2)), axis=1).reshape(5, 4)
    points, mask = rng.uniform(0, side, (5, 2, 2)), rng.normal(size=(1, mask_side, mask_side))
    image = rng.normal(size=(1, side, side, 3))
    return labels, *(x.astype(np.float32) for x in (points, boxes, mask, image))


# How theirs and ours are asked, beside points and labels.
WAYS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "points": (("points",), {}),
    "alone": (("points",), {"multimask": False}),
    "box": (("points", "boxes"), {}),
    "box only": (("boxes",), {}),
    "mask": (("points", "masks"), {}),
}


class Case:
    """One random model on both sides."""

    def __init__(self, folder, sizes):
        self.theirs = save(folder, sizes)
        self.loaded = load_sam(folder)
        self.config = self.loaded.config
        self.prompts = prompts(self.config.image_size, self.config.mask_size)
        model = self.loaded.model()
        apply: Any = model.apply
        self.encode = jax.jit(lambda p, x: apply({"params": p}, x, method=Sam.encode))
        self.decode = functools.cache(self._decode)

    def want(self, way):
        torch, _ = libraries()
        labels, points, boxes, mask, image = (torch.from_numpy(x)[None] for x in self.prompts)
        given, options = WAYS[way]
        named = {"points": points, "boxes": boxes, "masks": mask}
        words = {f"input_{name}": named[name] for name in given}
        if "points" in given:
            words["input_labels"] = labels
        with torch.no_grad():
            out = self.theirs(
                pixel_values=image[0].permute(0, 3, 1, 2),
                multimask_output=options.get("multimask", True), **words,
            )  # fmt: skip
            embedding = self.theirs.get_image_embeddings(image[0].permute(0, 3, 1, 2))
        return (
            embedding.permute(0, 2, 3, 1).numpy(),
            out.pred_masks[0].numpy(),
            out.iou_scores[0].numpy(),
        )

    def _decode(self, way):
        apply, options = self.loaded.model().apply, WAYS[way][1]
        return jax.jit(lambda p, e, w: apply({"params": p}, e, **w, **options, method=Sam.decode))

    def got(self, way):
        labels, points, boxes, mask, image = self.prompts
        params, given = self.loaded.params, WAYS[way][0]
        named = {"boxes": boxes, "masks": mask, "points": points, "labels": labels}
        words = {name: named[name] for name in given}
        if "points" in given:
            words["labels"] = labels
        embedding = self.encode(params, image)
        return embedding, *self.decode(way)(params, embedding[0], words)


@pytest.fixture(
    scope="module",
    params=[
        "odd",
        pytest.param("even", marks=pytest.mark.slow),
        pytest.param("no tables", marks=pytest.mark.slow),
    ],
)
def case(request, tmp_path_factory):
    return Case(tmp_path_factory.mktemp("sam"), CASES[request.param])


SELDOM = ("alone", "box only")


@pytest.mark.parametrize(
    "way", [pytest.param(w, marks=[pytest.mark.slow] * (w in SELDOM)) for w in WAYS]
)
def test_embeddings_masks_and_scores_are_those_of_transformers(case, way):
    for got, want in zip(case.got(way), case.want(way), strict=True):
        assert got.shape == want.shape
        close(got, want)


def twisted(case, **changes):
    """Returns the parameters with some replaced, by what their flat name ends with."""

    def change(path, leaf):
        name = "/".join(key.key for key in path)
        for end, function in changes.items():
            if name.startswith(end.replace("__", "/")):
                return function(leaf)
        return leaf

    return jax.tree_util.tree_map_with_path(change, case.loaded.params)


def test_wrong_variants_differ(case):
    _, _, _, _, image = case.prompts
    want = case.want("points")[0]
    wrong = {
        "positions": twisted(case, encoder__positions=np.zeros_like),
        "relative": twisted(case, encoder__rows=np.zeros_like, encoder__columns=np.zeros_like),
        "turned": twisted(case, encoder__rows=lambda x: x[::-1]),
        "neck": twisted(case, encoder__neck_2__kernel=lambda x: x[::-1]),
    }
    for name, params in wrong.items():
        if name == "neck" or case.config.encoder.relative:
            error = np.abs(case.encode(params, image) - want).max()
            assert error > 100 * TOLERANCE * np.abs(want).max(), name


def test_wrong_prompts_differ(case):
    labels, points, _, _, image = case.prompts
    params, want = case.loaded.params, case.want("points")[1]
    embedding = case.encode(params, image)[0]
    for changed in ({"points": points + 0.5}, {"labels": 1 - labels}):
        words = {"points": points, "labels": labels, **changed}
        got = case.decode("points")(params, embedding, words)[0]
        assert np.abs(got - want).max() > 100 * TOLERANCE * np.abs(want).max()


# Without torch.


@functools.cache
def alone():
    config = config_from_json({"model_type": "sam", **ODD}, name="odd", file="x")
    return config, drawn(config)


def decode(config, params, dtype=jnp.float32):
    apply: Any = Sam(config, dtype).apply
    return jax.jit(lambda e, p, m: apply({"params": params}, e, p, masks=m, method=Sam.decode))


@pytest.mark.slow
def test_an_image_for_all_prompts_or_one_for_each_are_the_same():
    config, params = alone()
    _, points, _, mask, _ = prompts(config.image_size, config.mask_size)
    run = decode(config, params)
    embedding = np.random.default_rng(1).normal(size=(7, 7, 32)).astype(np.float32)
    shared = run(embedding, points, mask)
    each = run(embedding, points, np.repeat(mask, 5, axis=0))
    for one, other in zip(shared, each, strict=True):
        close(one, np.asarray(other))


@pytest.mark.slow
def test_bfloat16_is_near_and_results_are_float32():
    config, params = alone()
    _, points, _, _, image = prompts(config.image_size, config.mask_size)
    outs = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        apply: Any = Sam(config, dtype).apply
        outs[dtype] = jax.jit(lambda x, p, f=apply: f({"params": params}, x, p))(image, points)
    for near, want in zip(outs[jnp.bfloat16], outs[jnp.float32], strict=True):
        assert near.dtype == want.dtype == jnp.float32
        assert float(jnp.abs(near - want).mean()) < 0.1 * float(jnp.std(want))


@pytest.mark.parametrize("side", [3, 4, 7])
def test_windows_are_put_together_again(side):
    x = np.random.default_rng(0).normal(size=(2, 7, 7, 3)).astype(np.float32)
    cut = windows(x, side)
    assert cut.shape == (2 * (-(-7 // side)) ** 2, side**2, 3)
    np.testing.assert_array_equal(cut[0].reshape(side, side, 3), x[0, :side, :side])
    np.testing.assert_array_equal(whole(cut, side, 7), x)


def test_enlarge_is_a_transposed_convolution():
    rng = np.random.default_rng(0)
    x, kernel, bias = (
        rng.normal(size=s).astype(np.float32) for s in ((1, 2, 3, 4), (2, 2, 4, 5), 5)
    )
    got = Enlarge(5).apply({"params": {"kernel": kernel, "bias": bias}}, x)
    want = np.zeros((1, 4, 6, 5))
    for i in range(4):
        for j in range(6):
            want[0, i, j] = x[0, i // 2, j // 2].astype(np.float64) @ kernel[i % 2, j % 2] + bias
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_pictures_are_fitted_and_padded():
    config, _ = alone()
    image = np.full((30, 40, 3), 200, np.uint8)
    canvas = fit(image, 56)
    assert fitted_size((30, 40), 56) == (42, 56) and canvas.shape == (56, 56, 3)
    # 3 · 0.5 rounds up, as published.
    assert fitted_size((3, 8), 4) == (2, 4)
    pixels = np.asarray(normalise(canvas, np.array([42, 56]), config))
    assert (canvas[:42] == 200).all() and (pixels[42:] == 0).all() and (pixels[:42] != 0).all()
    grid = point_grid(2, (30, 40), 56)
    np.testing.assert_allclose(grid, [[14, 10.5], [42, 10.5], [14, 31.5], [42, 31.5]])


def test_mistakes_are_told():
    config, params = alone()
    run: Any = Sam(config).apply
    with pytest.raises(UserError, match="expected 56×56 pixels, got 48×56"):
        run({"params": params}, np.zeros((1, 48, 56, 3), np.float32), method=Sam.encode)
    with pytest.raises(UserError, match="expected points or boxes, got neither"):
        run({"params": params}, np.zeros((7, 7, 32), np.float32), method=Sam.decode)
    with pytest.raises(UserError, match=r"image: expected uint8\[H W 3\], got float32"):
        fit(np.zeros((8, 8, 3), np.float32), 56)
    with pytest.raises(UserError, match="sides of at most 1 : 112"):
        fit(np.zeros((1, 200, 3), np.uint8), 56)


def test_the_configuration_says_which_blocks_see_everything():
    config, _ = alone()
    assert [config.encoder.side(i) for i in range(4)] == [3, 7, 3, 3]
    other = dataclasses.replace(config.encoder, global_blocks=(0, 3))
    assert [other.side(i) for i in range(4)] == [7, 3, 3, 7]

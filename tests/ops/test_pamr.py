"""PAMR against loops over pixels and against convolutions, its gradients, and padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.ops import pamr

DILATIONS, TURNS = (1, 3), 2
SETTINGS = {"iterations": TURNS, "dilations": DILATIONS}
SIZE = (7, 6)


def scene(seed=0, size=SIZE, masks=2):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    return image, rng.random((masks, *size)).astype(np.float32)


@functools.cache
def compiled():
    return jax.jit(functools.partial(pamr.pamr, **SETTINGS))


def by_pixels(
    image, masks, *, dilations=DILATIONS, turns=TURNS, ddof=1, power=1, share=0.1, centre=False,
    edge="nearest", pooled=True,
):  # fmt: skip
    """The same in float64, pixel after pixel; the last line of arguments makes wrong variants."""
    image, masks = image.astype(np.float64), masks.astype(np.float64)
    height, width = image.shape[:2]
    ring = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]

    def at(array, y, x):
        if edge == "zero" and not (0 <= y < height and 0 <= x < width):
            return np.zeros_like(array[0, 0])
        return array[min(max(y, 0), height - 1), min(max(x, 0), width - 1)]

    kernel = {}
    for y in range(height):
        for x in range(width):
            places = [
                (y + d * v, x + d * u)
                for d in dilations
                for v, u in ring
                if centre or (v, u) != (0, 0)
            ]
            window = [(y + d * v, x + d * u) for d in dilations for v, u in ring]
            window = window if pooled else window[:9]
            std = np.std([at(image, *p) for p in window], axis=0, ddof=ddof)
            logits = [
                -np.mean(np.abs(at(image, *p) - image[y, x]) / (share * std**power + 1e-8))
                for p in places
            ]
            weights = np.exp(np.array(logits) - max(logits))
            kernel[y, x] = places, weights / weights.sum()
    values = masks.transpose(1, 2, 0)
    for _ in range(turns):
        new = np.empty_like(values)
        for (y, x), (places, weights) in kernel.items():
            new[y, x] = sum(w * at(values, *p) for w, p in zip(weights, places, strict=True))
        values = new
    return values.transpose(2, 0, 1)


def test_it_is_what_loops_over_pixels_give():
    image, masks = scene()
    got = np.asarray(compiled()(image, masks))
    np.testing.assert_allclose(got, by_pixels(image, masks), atol=2e-6)
    assert got.dtype == np.float32
    # Colours may be on any scale.
    other = np.asarray(compiled()(image.astype(np.float32) / 255, masks))
    np.testing.assert_allclose(other, got, atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ddof": 0}, {"power": 2}, {"share": 1.0}, {"centre": True}, {"edge": "zero"},
        {"pooled": False}, {"turns": TURNS + 1}, {"dilations": (1, 2)},
    ],
    ids=str,
)  # fmt: skip
def test_loops_of_another_formula_give_something_else(wrong):
    image, masks = scene()
    got = np.asarray(compiled()(image, masks))
    assert np.abs(got - by_pixels(image, masks, **wrong)).max() > 1e-4


def test_it_is_what_convolutions_give():
    torch = pytest.importorskip("torch", reason="compares with torch; pip install torch")
    image, masks = scene(1)

    def neighbours(x, centre):
        every = []
        for d in DILATIONS:
            padded = torch.nn.functional.pad(x, [d] * 4, mode="replicate")
            columns = torch.nn.functional.unfold(padded, 3, dilation=d)
            every.append(columns.reshape(*x.shape[:2], 9, *x.shape[2:]))
        if not centre:
            every = [torch.cat([x[:, :, :4], x[:, :, 5:]], 2) for x in every]
        return torch.cat(every, 2)

    colours = torch.tensor(image.astype(np.float32)).permute(2, 0, 1)[None]
    spread = neighbours(colours, True).std(2, keepdim=True)
    far = (neighbours(colours, False) - colours[:, :, None]).abs()
    weights = (-far / (1e-8 + 0.1 * spread)).mean(1, keepdim=True).softmax(2)
    values = torch.tensor(masks)[None]
    for _ in range(TURNS):
        values = (neighbours(values, False) * weights).sum(2)
    np.testing.assert_allclose(compiled()(image, masks), values[0].numpy(), atol=2e-6)


def test_padding_changes_nothing():
    image, masks = scene()
    (height, width), wide = SIZE, scene(5, (SIZE[0] + 3, SIZE[1] + 2))
    wide[0][:height, :width], wide[1][:, :height, :width] = image, masks
    valid = np.zeros(wide[0].shape[:2], bool)
    valid[:height, :width] = True
    got = np.asarray(compiled()(*wide, valid))
    np.testing.assert_allclose(got[:, :height, :width], compiled()(image, masks), atol=1e-6)
    assert not got[:, ~valid].any()
    # What lies outside does not matter, bit for bit; unmasked it does.
    other = (wide[0].copy(), wide[1].copy())
    other[0][~valid], other[1][:, ~valid] = 9, 5.0
    np.testing.assert_array_equal(compiled()(*other, valid), got)
    unmasked = np.asarray(compiled()(*wide, np.ones_like(valid)))[:, :height, :width]
    assert np.abs(unmasked - got[:, :height, :width]).max() > 1e-3
    # A picture of nothing, which fills up a batch.
    assert not np.asarray(compiled()(*wide, np.zeros_like(valid))).any()


def test_a_batch_is_its_pictures():
    pictures = [scene(i) for i in range(3)]
    image, masks = (np.stack(x) for x in zip(*pictures, strict=True))
    valid = np.ones((3, *SIZE), bool)
    valid[1, 5:], valid[2, :, 4:] = False, False
    want = np.stack([compiled()(*one, v) for one, v in zip(pictures, valid, strict=True)])
    np.testing.assert_allclose(compiled()(image, masks, valid), want, atol=1e-6)
    mapped = jax.jit(jax.vmap(functools.partial(pamr.pamr, **SETTINGS)))
    np.testing.assert_allclose(mapped(image, masks, valid), want, atol=1e-6)


def test_sums_and_ranges_are_kept():
    image, masks = scene(masks=3)
    masks /= masks.sum(axis=0)
    got = np.asarray(compiled()(image, masks))
    np.testing.assert_allclose(got.sum(axis=0), 1, atol=1e-6)
    assert got.min() >= masks.min() and got.max() <= masks.max()
    np.testing.assert_array_equal(pamr.pamr(image, masks, iterations=0), masks)
    weights = np.asarray(pamr.affinity(image, dilations=DILATIONS))
    np.testing.assert_allclose(weights.sum(axis=(0, 1)), 1, atol=1e-6)


def test_masks_follow_colours():
    # Two colours, and a mask that covers one of them but for a hole, and leaks into the other.
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 8:] = (250, 120, 10)
    image = image + np.random.default_rng(0).integers(0, 5, image.shape, np.uint8)
    masks = np.zeros((1, 16, 16), np.float32)
    masks[0, :, 8:], masks[0, 4:6, 10:12], masks[0, 9:11, 5:7] = 1, 0, 1
    got = np.asarray(pamr.pamr(image, masks, iterations=10, dilations=(1, 2, 4)))[0] > 0.5
    np.testing.assert_array_equal(got, np.arange(16)[None] >= np.full((16, 1), 8))


def test_gradients_are_slopes():
    image, masks = scene(2, (5, 4))
    image = image.astype(np.float64) / 255
    pull = np.random.default_rng(3).random(masks.shape)

    def loss(image, masks):
        return jnp.sum(compiled()(image, masks) * pull)

    slopes = jax.jit(jax.grad(loss, (0, 1)))(image.astype(np.float32), masks)
    rng = np.random.default_rng(4)
    for slope, place in zip(slopes, (0, 1), strict=True):
        way = rng.normal(size=slope.shape)
        ends = []
        for step in (1e-6, -1e-6):
            given = [image, masks.astype(np.float64)]
            given[place] = given[place] + step * way
            ends.append((by_pixels(*given) * pull).sum())
        want = (ends[0] - ends[1]) / 2e-6
        assert abs(want) > 1e-2
        np.testing.assert_allclose(np.vdot(slope, way), want, rtol=2e-3)


def test_a_single_colour_has_finite_gradients():
    image, masks = np.full((*SIZE, 3), 0.3, np.float32), scene()[1]
    slopes = jax.jit(jax.grad(lambda i, m: jnp.sum(compiled()(i, m) ** 2), (0, 1)))(image, masks)
    assert not np.asarray(slopes[0]).any() and np.isfinite(slopes[1]).all()
    assert np.asarray(slopes[1]).any()


def test_memory_does_not_hold_all_neighbours_of_all_masks():
    shapes = ((40, 50, 3), (21, 40, 50))
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    neighbours = 48 * 21 * 40 * 50 * 4

    def slope(image, masks):
        return jax.grad(lambda m: jnp.sum(pamr.pamr(image, m) ** 2))(masks)

    for run, most in ((pamr.pamr, 0.25), (slope, 1.0)):
        memory = jax.jit(run).lower(*given).compile().memory_analysis()
        assert memory.temp_size_in_bytes < most * neighbours, memory.temp_size_in_bytes / neighbours


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image": np.zeros((4, 5), np.uint8)}, "image: expected pixels"),
        ({"image": np.zeros((0, 5, 3), np.uint8)}, "image: expected pixels"),
        ({"masks": np.zeros((2, 4, 6), np.float32)}, "masks: expected"),
        ({"masks": np.zeros((4, 5), np.float32)}, "masks: expected"),
        ({"valid": np.ones((4, 6), bool)}, "valid: expected"),
        ({"iterations": -1}, "iterations: expected 0 or more"),
        ({"dilations": (0, 1)}, "dilations: expected"),
        ({"dilations": ()}, "dilations: expected"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    given = {"image": np.zeros((4, 5, 3), np.uint8), "masks": np.zeros((2, 4, 5), np.float32)}
    with pytest.raises(UserError, match=message):
        pamr.pamr(**(given | change))

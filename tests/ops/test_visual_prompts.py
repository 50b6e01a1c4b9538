import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from openseg_jax.errors import UserError
from openseg_jax.ops import visual_prompts as prompts

ALL = prompts.KINDS


def scene(h=40, w=52, count=4, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
    masks = ndimage.gaussian_filter(rng.normal(size=(count, h, w)), (0, 4, 4)) > 0.02
    return image, masks


@pytest.mark.parametrize("shape", [(40, 52), (5, 60), (3, 2), (1, 1), (1, 20)], ids=str)
def test_blur_equals_scipy_with_the_integer_kernel(shape):
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    x = image.astype(np.int64)
    for axis in (1, 0):
        mode = "nearest" if shape[axis] == 1 else "mirror"
        x = ndimage.correlate1d(x, prompts._BLUR_KERNEL, axis=axis, mode=mode)
    np.testing.assert_array_equal(prompts.blur(image), (x + 2**15) >> 16)


def test_a_float_gaussian_is_not_the_same():
    image, _ = scene()
    taps = np.exp(-0.5 * (np.arange(-7, 8) / 2.6) ** 2)
    x = image.astype(np.float64)
    for axis in (1, 0):
        x = ndimage.correlate1d(x, taps / taps.sum(), axis=axis, mode="mirror")
    difference = np.round(x) - np.asarray(prompts.blur(image))
    assert np.abs(difference).max() == 1 and (difference != 0).mean() > 0.01


def test_gray_weighs_green_most_and_red_by_flag():
    red = np.array([[255, 0, 0]], np.uint8)
    assert np.asarray(prompts.gray(red)).tolist() == [[76] * 3]
    assert np.asarray(prompts.gray(red, swapped=True)).tolist() == [[29] * 3]
    white = np.array([[255, 255, 255]], np.uint8)
    assert np.asarray(prompts.gray(white)).tolist() == [[255] * 3]


def test_order_of_kinds_does_not_matter_and_combinations_stack():
    image, masks = scene()
    draw = jax.jit(prompts.draw_prompts, static_argnames="kinds")
    one = np.asarray(draw(image, masks, kinds=("gray", "circle", "blur")))
    other = np.asarray(draw(image, masks, kinds=("blur", "gray", "circle")))
    np.testing.assert_array_equal(one, other)
    outside = np.asarray(prompts.gray(prompts.blur(image)))
    plain = np.asarray(prompts.draw_prompts(image, masks, ("blur", "gray")))
    np.testing.assert_array_equal(plain, np.where(masks[..., None], image, outside))
    swapped = np.asarray(prompts.blur(prompts.gray(image)))
    assert (plain != np.where(masks[..., None], image, swapped)).any()


def test_background_made_before_gives_the_same():
    image, masks = scene()
    outside = prompts.background(image, ALL[:2])
    np.testing.assert_array_equal(
        prompts.draw_prompts(image, masks, ALL[:2], outside=outside),
        prompts.draw_prompts(image, masks, ALL[:2]),
    )


def test_unused_and_empty_masks_show_the_image():
    image, masks = scene()
    masks[1] = False
    use = np.array([True, True, False, True])
    got = np.asarray(prompts.draw_prompts(image, masks, ("blur", "circle"), use=use))
    assert (got[0] != image).any()
    np.testing.assert_array_equal(got[1], image)
    np.testing.assert_array_equal(got[2], image)
    quirk = np.asarray(prompts.draw_prompts(image, masks, ("blur",), use=use, empty_quirk=True))
    np.testing.assert_array_equal(quirk[1], prompts.blur(image))


def test_no_kinds_is_the_image():
    image, masks = scene()
    np.testing.assert_array_equal(
        prompts.draw_prompts(image, masks, ()), np.broadcast_to(image, (len(masks), *image.shape))
    )


@pytest.mark.parametrize("kinds", [("blur", "gray", "circle"), ("black", "rectangle", "contour")])
def test_padding_the_canvas_changes_nothing(kinds):
    image, masks = scene()
    canvas, _ = scene(64, 64, seed=3)
    canvas[:40, :52] = image
    wide = np.ones((len(masks), 64, 64), bool)
    wide[:, :40, :52] = masks
    call = jax.jit(lambda i, m, h, w: prompts.draw_prompts(i, m, kinds, size=(h, w)))
    got = np.asarray(call(canvas, wide, jnp.int32(40), jnp.int32(52)))
    draw = jax.jit(prompts.draw_prompts, static_argnames="kinds")
    want = np.asarray(draw(image, masks, kinds=kinds))
    np.testing.assert_array_equal(got[:, :40, :52], want)
    np.testing.assert_array_equal(got[:, 40:], np.broadcast_to(canvas[40:], got[:, 40:].shape))
    without = np.asarray(draw(canvas, wide, kinds=kinds))
    assert (without[:, :40, :52] != want).any()


def test_contour_and_holes_equal_scipy():
    _, masks = scene(30, 34, count=20, seed=5)
    filled = np.stack([ndimage.binary_fill_holes(m) for m in masks])
    np.testing.assert_array_equal(jax.jit(jax.vmap(prompts.fill_holes))(masks), filled)
    core = np.stack([ndimage.binary_erosion(m) for m in filled])
    np.testing.assert_array_equal(jax.jit(jax.vmap(prompts.contour))(masks), filled & ~core)
    assert (filled != masks).any()


def test_flood_follows_a_spiral():
    maze = np.ones((11, 11), bool)
    for i in range(5):
        maze[i, :] = maze[10 - i, :] = maze[:, i] = maze[:, 10 - i] = i % 2 == 0
        maze[5, 5] = False
    for y, x in ((0, 1), (2, 9), (4, 3)):
        maze[y, x] = False
    np.testing.assert_array_equal(prompts.fill_holes(maze), ndimage.binary_fill_holes(maze))


def test_centroid_is_exact_where_int32_sums_would_wrap():
    mask = np.ones((1500, 3000), bool)
    mask[0, :1500] = False
    y, x = np.nonzero(mask)
    assert x.sum() > 2**31
    got = [int(v) for v in prompts.mask_geometry(mask)]
    assert got == [int(y.mean()), int(x.mean()), 1500, 3000]


def test_masks_from_maps_is_strict_and_ignores_padding():
    maps = np.zeros((2, 4, 4), np.float32)
    maps[0, 0, :3] = [0.5, 0.6, 0.2]
    maps[1, 3, 3] = 0.9
    valid = np.arange(4)[:, None] < np.array([3, 3, 3, 3])
    masks, use = prompts.masks_from_maps(maps, 0.5, valid=valid)
    assert np.argwhere(masks).tolist() == [[0, 0, 1]] and use.tolist() == [True, False]


def test_unknown_kind_offers_the_closest():
    image, masks = scene()
    with pytest.raises(UserError, match="circle"):
        prompts.draw_prompts(image, masks, ("cirlce",))

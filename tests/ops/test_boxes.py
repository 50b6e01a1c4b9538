import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from openseg_jax.errors import UserError
from openseg_jax.ops import boxes


def slow_box_mask(cam: np.ndarray, fraction: float, quirk: bool) -> np.ndarray:
    """Boxes by scipy's labelling, one component at a time, with the retry as a loop."""
    h, w = cam.shape
    levels = (cam * np.float32(255)).astype(np.uint8)
    mask = np.zeros((h, w), bool)
    while fraction > 0 and not mask.any():
        mask = levels > int(fraction * int(levels.max()))
        fraction -= 0.1
    out = np.zeros((h, w), bool)
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    for rows, columns in ndimage.find_objects(labels):
        y1, x1 = rows.stop, columns.stop
        if quirk:
            y1, x1 = min(y1, h - 1), min(x1, w - 1)
        out[rows.start : y1, columns.start : x1] = True
    return out


def maps(count: int, h: int, w: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    raw = ndimage.gaussian_filter(rng.normal(size=(count, h, w)), (0, 0.8, 0.8))
    raw -= raw.min(axis=(1, 2), keepdims=True)
    return (raw / raw.max(axis=(1, 2), keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("quirk", [False, True])
def test_boxes_equal_labelling_one_component_at_a_time(quirk):
    cams = maps(200, 9, 13)
    got = np.asarray(
        jax.jit(boxes.box_masks, static_argnames="border_quirk")(
            cams, boxes.threshold_table(0.6), border_quirk=quirk
        )
    )
    want = np.stack([slow_box_mask(c, 0.6, quirk) for c in cams])
    np.testing.assert_array_equal(got, want)
    wrong = np.asarray(boxes.box_masks(cams, 0.6, border_quirk=not quirk))
    assert (wrong != want).any()


def test_winding_component_is_one_component():
    spiral = np.zeros((9, 9), np.float32)
    spiral[0, :], spiral[:, 8], spiral[8, :], spiral[2:, 0] = 1, 1, 1, 1
    spiral[2, :7], spiral[2:7, 6], spiral[6, 2:7], spiral[4:7, 2] = 1, 1, 1, 1
    found = boxes.boxes_of(spiral > 0.5)
    np.testing.assert_array_equal(found, [[0, 0, 9, 9]])


def test_diagonal_neighbours_are_connected_and_gaps_are_not():
    mask = np.zeros((5, 6), bool)
    mask[0, 0] = mask[1, 1] = mask[4, 5] = True
    np.testing.assert_array_equal(boxes.boxes_of(mask), [[0, 0, 2, 2], [5, 4, 6, 5]])


def test_zero_map_has_no_box_and_fractions_from_one_up_retry():
    cams = np.stack([np.zeros((4, 5)), maps(1, 4, 5)[0]]).astype(np.float32)
    for fraction in (0.4, 1.0, 1.25):
        got = np.asarray(boxes.box_masks(cams, fraction, border_quirk=True))
        assert not got[0].any()
        np.testing.assert_array_equal(got[1], slow_box_mask(cams[1], fraction, True))


def test_threshold_table_is_made_in_float64():
    table = boxes.threshold_table(0.9)
    assert table[250] == 225 and int(np.float32(0.9) * np.float32(250)) == 225
    assert all(table[m] == int(0.9 * m) for m in range(1, 256))
    assert boxes.threshold_table(0.4)[0] == 256
    with pytest.raises(UserError, match="fraction"):
        boxes.threshold_table(0.0)


@pytest.mark.parametrize("quirk", [False, True])
def test_padding_the_grid_changes_nothing(quirk):
    cams = maps(20, 6, 7, seed=3)
    noise = np.random.default_rng(1).random((20, 10, 12)).astype(np.float32)
    noise[:, :6, :7] = cams
    call = jax.jit(lambda x, h, w: boxes.box_masks(x, 0.5, size=(h, w), border_quirk=quirk))
    got = np.asarray(call(noise, jnp.int32(6), jnp.int32(7)))
    want = np.asarray(boxes.box_masks(cams, 0.5, border_quirk=quirk))
    np.testing.assert_array_equal(got[:, :6, :7], want)
    assert not got[:, 6:].any() and not got[:, :, 7:].any()
    assert (np.asarray(boxes.box_masks(noise, 0.5, border_quirk=quirk))[:, :6, :7] != want).any()


def test_vmap_and_batch_dimensions_agree():
    cams = maps(6, 5, 5, seed=5).reshape(2, 3, 5, 5)
    table = boxes.threshold_table(0.5)
    one = jax.vmap(jax.vmap(lambda m: boxes.box_masks(m, table)))(cams)
    np.testing.assert_array_equal(one, boxes.box_masks(cams, table))

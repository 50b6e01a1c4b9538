"""The mask generator against transformers' processor, and its parts without torch."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from openseg_jax.errors import UserError
from openseg_jax.methods.sam_masks import SamMasks, SamMasksConfig, load, remove_small
from openseg_jax.models.sam import fit, fitted_size, mask_matrices, normalise, point_grid
from openseg_jax.ops.nms import box_nms
from openseg_jax.ops.resize import apply_matrices
from openseg_jax.weights.report import Report
from openseg_jax.weights.sam import LoadedSam, config_from_json
from tests.weights.sam_side import ODD, drawn, write
from tests.weights.torch_side import libraries

SIDE = ODD["vision_config"]["image_size"]
LOW = SIDE // 2
SIZE = (45, 61)
OPEN = {"pred_iou_threshold": 0, "stability_threshold": 0, "nms_threshold": 1.0}


@functools.cache
def picture():
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    return np.asarray(small.resize(SIZE[::-1], Image.Resampling.BICUBIC))


@functools.cache
def sam():
    config = config_from_json({"model_type": "sam", **ODD}, name="odd", file="x")
    return LoadedSam(config, drawn(config), {"name": "odd"}, Report(file="x"))


@functools.cache
def blobs(points=36):
    """Low-resolution logits of round masks, three a point, and IoUs that differ clearly."""
    rng = np.random.default_rng(3)
    at = rng.uniform(2, LOW - 2, (points * 3, 2, 1, 1))
    y, x = np.mgrid[:LOW, :LOW] + 0.5
    radius = rng.uniform(1.5, 9, (points * 3, 1, 1))
    apart = np.hypot(y - at[:, 0], x - at[:, 1])
    steep = rng.uniform(0.8, 12, (points * 3, 1, 1))
    low = (radius - apart) * steep
    low[7] = -5  # an empty mask
    iou = rng.permutation(points * 3) / (points * 3)
    return low.astype(np.float32), iou.astype(np.float32)


class Painter(SamMasks):
    """The generator with a network that paints `blobs`, told by the place of each point."""

    def __init__(self, **settings):
        super().__init__(sam(), SamMasksConfig(points_per_side=6, **settings))
        low, iou = blobs()
        grid = point_grid(6, SIZE, SIDE)
        self._encode = lambda params, canvas, size: None
        self.calls = []

        def decode(params, embedding, points):
            self.calls.append(len(points))
            which = [int(np.abs(grid - p).sum(axis=1).argmin()) for p in np.asarray(points)]
            rows = np.concatenate([np.arange(3 * i, 3 * i + 3) for i in which])
            return jnp.asarray(low[rows]), jnp.asarray(iou[rows])

        self._decode = decode


def processor():
    _, _ = libraries()
    module = pytest.importorskip(
        "transformers.models.sam.image_processing_pil_sam",
        reason="needs transformers 5: pip install -U transformers",
    )
    size = {"height": SIDE, "width": SIDE}
    made = module.SamImageProcessorPil(
        size={"longest_edge": SIDE}, pad_size=size, image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.3, 0.25],
    )  # fmt: skip
    return made, module


@pytest.mark.slow
def test_pixels_and_points_are_those_of_transformers():
    theirs, _ = processor()
    want = theirs(Image.fromarray(picture()), return_tensors="np")["pixel_values"][0]
    about = config_from_json({"model_type": "sam", **ODD}, name="x", file="x")
    scale = {"mean": (102.0, 127.5, 153.0), "std": (51.0, 76.5, 63.75)}
    config = type(about)(about.name, about.encoder, about.decoder, **scale)
    got = normalise(jnp.asarray(fit(picture(), SIDE)), np.array(fitted_size(SIZE, SIDE)), config)
    np.testing.assert_allclose(np.moveaxis(np.asarray(got), -1, 0), want, atol=1e-6)
    image = Image.fromarray(picture())
    _, points, _, _ = theirs.generate_crop_boxes(image, SIDE, points_per_crop=6)
    np.testing.assert_allclose(point_grid(6, SIZE, SIDE), points[0, :, 0].numpy(), atol=1e-5)


def test_logits_come_to_the_pictures_size_as_in_transformers():
    torch, _ = libraries()
    theirs, _ = processor()
    low, _ = blobs()
    want = theirs.post_process_masks(
        [torch.from_numpy(low)[None]], [SIZE], [fitted_size(SIZE, SIDE)], binarize=False
    )[0][0]
    got = apply_matrices(jnp.asarray(low), *mask_matrices(SIZE, sam().config))
    np.testing.assert_allclose(got, want.numpy(), atol=1e-6 * np.abs(low).max())
    at_once = torch.nn.functional.interpolate(torch.from_numpy(low)[None], SIZE, mode="bilinear")
    assert np.abs(np.asarray(got) - at_once[0].numpy()).max() > 0.1, "the padding would count"


def clear(values, wanted):
    """Returns a threshold near `wanted` in the middle of a gap, so that no rounding decides."""
    values = np.unique(values)
    middles, gaps = (values[1:] + values[:-1]) / 2, np.diff(values)
    good = middles[gaps > 1e-4]
    return float(good[np.abs(good - wanted).argmin()])


@pytest.mark.parametrize("nms", [1.0, 0.7])
def test_masks_are_those_that_transformers_keeps(nms):
    torch, _ = libraries()
    theirs, module = processor()
    low, iou = blobs()
    least = clear(iou, 0.3)
    logits = theirs.post_process_masks(
        [torch.from_numpy(low)[None]], [SIZE], [fitted_size(SIZE, SIDE)], binarize=False
    )[0]
    parts = logits[0].numpy()
    inner, outer = (parts > 1).sum((1, 2)), (parts > -1).sum((1, 2))
    stable = clear(inner[outer > 0] / outer[outer > 0], 0.6)
    runs, scores, boxes = theirs.filter_masks(
        logits, torch.from_numpy(iou)[None], SIZE, np.array([0, 0, SIZE[1], SIZE[0]]),
        least, stable,
    )  # fmt: skip
    # Their own suppression needs torchvision; ours is tested against a loop.
    kept = box_nms(boxes.numpy(), scores.numpy(), nms)
    want = np.stack([module._rle_to_mask(runs[i]) for i in kept])
    settings = {"pred_iou_threshold": least, "stability_threshold": stable, "nms_threshold": nms}
    masks, got = Painter(**settings).scored(picture())
    assert 4 < len(masks) < len(low) and (nms == 1) == (len(masks) == len(runs))
    np.testing.assert_array_equal(got, scores.numpy()[kept])
    # A logit of 0 to a rounding may fall on either side.
    assert masks.shape == want.shape and (masks != want).sum() <= 2


@pytest.mark.slow
def test_how_many_points_are_decoded_at_once_changes_nothing():
    masks, scores = Painter(**{**OPEN, "nms_threshold": 0.8}).scored(picture())
    assert len(masks) > 5 and (np.diff(scores) <= 0).all()
    for chunk in (1, 7, 36, 50):
        painter = Painter(**{**OPEN, "nms_threshold": 0.8}, points_per_batch=chunk)
        again, same = painter.scored(picture())
        np.testing.assert_array_equal(again, masks)
        np.testing.assert_array_equal(same, scores)
        assert set(painter.calls) == {min(chunk, 36)}, "one shape, one program"


def test_empty_masks_are_never_proposed_and_the_best_are_kept():
    everything = Painter(**OPEN)(picture())
    logits = apply_matrices(jnp.asarray(blobs()[0]), *mask_matrices(SIZE, sam().config))
    filled = int((np.asarray(logits) > 0).any(axis=(1, 2)).sum())
    assert len(everything) == filled < 36 * 3 and everything.any(axis=(1, 2)).all()
    few = Painter(**OPEN, max_masks=5)(picture())
    np.testing.assert_array_equal(few, everything[:5])
    assert len(Painter(**OPEN, max_masks=0)(picture())) == len(everything)
    assert Painter(pred_iou_threshold=1.0)(picture()).shape == (0, *SIZE)


@pytest.mark.slow
def test_the_real_network_gives_the_same_in_every_chunk(tmp_path):
    write(tmp_path)
    outs = []
    for chunk in (4, 9):
        settings = {**OPEN, "points_per_side": 3, "points_per_batch": chunk}
        outs.append(load(tmp_path, **settings).scored(picture()))
    (first, scores), (second, others) = outs
    # Scores of near equals may change places between programs; each mask must be in both.
    np.testing.assert_allclose(np.sort(scores), np.sort(others), atol=1e-5)
    apart = (first[:, None] != second[None]).sum(axis=(2, 3)).min(axis=1)
    assert len(first) == len(second) and apart.max() <= 0.002 * first[0].size


def test_small_regions():
    mask = np.zeros((12, 14), bool)
    mask[1:9, 1:9] = True
    mask[3, 3] = mask[4, 4] = False  # one hole of two pixels that touch at a corner
    mask[11, 11:13] = True
    clean = remove_small(mask, 3)
    want = np.zeros_like(mask)
    want[1:9, 1:9] = True
    np.testing.assert_array_equal(clean, want)
    np.testing.assert_array_equal(remove_small(mask, 2), mask)
    # The largest part stays however small it is.
    np.testing.assert_array_equal(remove_small(want, 1000) & want, want)
    assert not remove_small(np.zeros((3, 3), bool), 2).any()
    masks = Painter(**OPEN, min_region=12)(picture())
    for one in masks:
        np.testing.assert_array_equal(remove_small(one, 12), one)


@pytest.mark.slow
def test_one_pixel_and_long_pictures_work(tmp_path):
    write(tmp_path)
    generator = load(tmp_path, **OPEN, points_per_side=1)
    for size in ((1, 1), (3, 90)):
        masks = generator(np.zeros((*size, 3), np.uint8))
        assert masks.shape[1:] == size and masks.dtype == bool
    with pytest.raises(UserError, match="sides of at most"):
        generator(np.zeros((1, 300, 3), np.uint8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points_per_sid": 8}, "did you mean 'points_per_side'"),
        ({"points_per_side": 0}, "points_per_side: expected 1 to 256, got 0"),
        ({"points_per_side": "8"}, "points_per_side: expected a whole number, got '8'"),
        ({"pred_iou_threshold": 1.5}, "pred_iou_threshold: expected 0 to 1, got 1.5"),
        ({"stability_threshold": float("nan")}, "stability_threshold: expected 0 to 1, got nan"),
        ({"stability_offset": 0.0}, "stability_offset: expected a number above 0"),
        ({"max_masks": -1}, "max_masks: expected 0 to"),
        ({"dtype": "float16"}, "dtype: unknown name 'float16'"),
    ],
)
def test_wrong_settings_are_told(settings, message):
    with pytest.raises(UserError, match=message):
        load(sam(), **settings)


def test_wrong_pictures_are_told():
    generator = SamMasks(sam())
    for image in (picture()[None], picture().astype(np.float32), picture()[..., 0]):
        with pytest.raises(UserError, match="image: expected uint8"):
            generator(image)
    assert generator.sam.provenance == {"name": "odd"}

"""Dense CLIP as a segmenter: windows, background rules, padding, settings, the command line."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from openseg_jax.configs import clip_dense as published

from openseg_jax.cli import main as cli
from openseg_jax.errors import UserError
from openseg_jax.methods.base import Segmenter, load_segmenter
from openseg_jax.methods.clip_dense import Reader, load
from openseg_jax.methods.clip_dense_config import BACKGROUND, configure, presets
from openseg_jax.methods.clip_dense_texts import build, from_embeddings
from openseg_jax.methods.windows import cut_windows, window_starts
from openseg_jax.models.last_block import LAST_BLOCKS, LastBlock
from openseg_jax.models.variants import VisionConfig, variant
from openseg_jax.models.vit import VisionTransformer
from openseg_jax.ops.masks import to_label_map
from openseg_jax.ops.pamr import pamr
from openseg_jax.weights.load import load_clip
from tests.segclip.models import quick_jit

NAMES = ["zebra", "grass", "sky"]
SETTINGS = {
    "variant": "clearclip", "templates": "a photo of {}", "short_side": 44, "stride": 24,
    "background": ("lemon",),
}  # fmt: skip
# That of the fixture `picture` too, so that tests share what was compiled.
SIZE = (40, 48)


@pytest.fixture(scope="module")
def dense(tiny_model):
    return load_segmenter("clip_dense", tiny_model, **SETTINGS)


def draw(size, seed=0):
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3))
    return np.kron(rough, np.ones((8, 8, 1)))[: size[0], : size[1]].astype(np.uint8)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def enlarge(x, size):
    """Bilinear with half-pixel centres and clamped edges, one output at a time."""
    for axis, count in enumerate(size):
        x = np.moveaxis(x, axis, 0)
        at = np.clip((np.arange(count) + 0.5) * len(x) / count - 0.5, 0, len(x) - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, len(x) - 1)
        part = (at - low).reshape(-1, *[1] * (x.ndim - 1))
        x = np.moveaxis(x[low] * (1 - part) + x[high] * part, 0, axis)
    return x


@functools.cache
def whole_picture(segmenter, seed=0):
    """An image's class probabilities."""
    image = draw(SIZE, seed)[None]
    text = segmenter.classes(NAMES)
    return image, np.asarray(segmenter.dense(segmenter.params, image, text))[0]


def test_a_segmenter_with_the_folders_settings(dense, tiny_model):
    assert isinstance(dense, Segmenter)
    assert dense.config.variant == "clearclip" and dense.config.last.residual is False
    with pytest.raises(UserError, match="bg_threshold"):
        load_segmenter("clip_dense", tiny_model, bg_treshold=0.5)
    with pytest.raises(UserError, match="maskclip"):
        load_segmenter("clip_dense", tiny_model, variant="maskclp")
    with pytest.raises(UserError, match="float32"):
        load_segmenter("clip_dense", tiny_model, dtype="float64")
    clip = dataclasses.replace(load_clip(tiny_model), defaults={"clip_dense": {"std": 3.0}})
    assert load(clip).config.std == 3.0 and load(clip, std=2.0).config.std == 2.0
    reference = load(clip, parity="reference").config
    assert reference.keep_shared and reference.pos_resample == "bicubic" and reference.std == 5.0
    with pytest.raises(UserError, match="reference"):
        load(tiny_model, parity="refrence")


def test_settings_are_checked():
    for wrong in (
        {"mode": "slid"}, {"templates": ("zebra",)}, {"templates": ()}, {"bg_threshold": 2.0},
        {"std": 0.0}, {"logit_scale": -1.0}, {"min_share": 1.0}, {"crop": -8},
        {"pos_resample": "cubic"}, {"refine": "crf"},
    ):  # fmt: skip
        with pytest.raises(UserError, match=next(iter(wrong)).removesuffix("s")):
            configure(**wrong)
    vision = VisionConfig(32, 8, 32, 2, 2, 64, "quick_gelu")
    for wrong in ({"crop": 30}, {"stride": 40}, {"long_side": 16}):
        with pytest.raises(UserError):
            configure(**wrong).plan(vision)
    assert configure(variant="maskclip", residual=False, feed_forward=False).last == LastBlock(
        (), residual=False, feed_forward=False
    )


def test_published_sizes_and_presets():
    plan = configure().plan(variant("ViT-B-16").vision)
    assert (plan.crop, plan.stride, plan.short) == (224, 112, 336)
    assert plan.work_size(375, 500) == (336, 448) and len(window_starts(plan, (375, 500))) == 6
    for name in published.NAMES:
        config = configure(**presets(name))
        assert config.variant in LAST_BLOCKS and config.plan(variant("ViT-B-16").vision)
        assert (config.bg_threshold is None) == (config.background == ())
    assert configure(**presets("voc21")).background == BACKGROUND
    sclip = configure(**presets("sclip_voc21"))
    assert (sclip.logit_scale, sclip.min_share, sclip.bg_threshold) == (65.0, 0.1, 0.1)
    assert configure(**presets("clearclip_voc20")).crop == 448
    with pytest.raises(UserError, match="voc21"):
        presets("voc2")


@pytest.mark.slow
def test_refined_cosines_follow_the_colours_before_they_compete(dense):
    refined = load(dense.clip, **SETTINGS, refine="pamr")
    image, plain = whole_picture(dense)
    text = dense.classes(NAMES)
    rows = text.anonymous().rows
    cosines = jax.jit(dense.reader.dense)(dense.params, image, rows)
    want = pamr(image, cosines, iterations=10, dilations=(8, 16))
    want = dense.reader.probabilities(want, text.anonymous())[0, : 1 + text.count]
    got = whole_picture(refined)[1]
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert np.abs(got - plain).max() > 1e-3
    np.testing.assert_array_equal(dense.reader.refined(image, cosines, None), cosines)
    # As part of a padded canvas: only the true pixels count.
    wide = np.pad(image, [(0, 0), (0, 5), (0, 3), (0, 0)], constant_values=255)
    loud = np.pad(cosines, [(0, 0), (0, 0), (0, 5), (0, 3)], constant_values=9)
    valid = np.pad(np.ones((1, *SIZE), bool), [(0, 0), (0, 5), (0, 3)])
    inside = refined.reader.refined(wide, loud, valid)[..., : SIZE[0], : SIZE[1]]
    np.testing.assert_allclose(inside, refined.reader.refined(image, cosines, None), atol=1e-6)


def test_towers_that_meet_no_text_patch_by_patch_are_named(tiny_model):
    clip = load_clip(tiny_model)
    vision = dataclasses.replace(clip.config.vision, pool="map")
    siglip = dataclasses.replace(clip, config=dataclasses.replace(clip.config, vision=vision))
    with pytest.raises(UserError, match="ViT-B-16"):
        load(siglip)


def test_probabilities_are_those_of_a_numpy_computation(dense):
    """Windows cut by hand; cosines enlarged, averaged and resized; softmax over all texts."""
    image, got = whole_picture(dense)
    plan, tower = dense.reader.plan, dense.reader.tower
    work = plan.work_size(*SIZE)
    total, count = np.zeros((*work, 4)), np.zeros((*work, 1))
    cuts = np.asarray(cut_windows(plan, image))[0]
    rows = np.asarray(dense.classes(NAMES).rows, np.float64)[:4]
    mean, std = (255 * np.asarray(v) for v in (dense.reader.mean, dense.reader.std))
    run = functools.partial(tower.apply, project=True, last=LAST_BLOCKS["clearclip"])
    tokens = quick_jit(functools.partial(run, method=VisionTransformer.tokens))(
        {"params": dense.params["visual"]}, np.float32((cuts - mean) / std)
    )
    cosines = unit(np.asarray(tokens, np.float64)) @ rows.T
    assert len(cuts) == len(window_starts(plan, SIZE)) > 1
    for one, (y, x) in zip(cosines, window_starts(plan, SIZE), strict=True):
        total[y : y + 32, x : x + 32] += enlarge(one.reshape(4, 4, 4), (32, 32))
        count[y : y + 32, x : x + 32] += 1
    logits = 40 * enlarge(total / count, SIZE)
    want = np.exp(logits - logits.max(-1, keepdims=True))
    want = np.moveaxis(want / want.sum(-1, keepdims=True), -1, 0)[[3, 0, 1, 2]]
    # Cosines agree to a few 1e-6, and a scale of 40 makes that 1e-4 in the exponent.
    np.testing.assert_allclose(got, want, atol=5e-4)
    assert np.abs(got - want[[0, 2, 1, 3]]).max() > 0.05


def test_masks_are_the_winners_and_scores_their_mean(dense):
    image, probs = whole_picture(dense)
    masks = dense.segment(dense.params, image, dense.classes(NAMES))
    labels = np.asarray(to_label_map(masks))[0]
    ranked = np.sort(probs, axis=0)
    clear = ranked[-1] - ranked[-2] > 1e-3
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(labels[clear], probs.argmax(axis=0)[clear])
    assert (np.asarray(masks.probs).sum(axis=1) <= 1).all()
    for c in range(3):
        own = np.asarray(masks.probs)[0, c] > 0
        assert own.any() == bool(np.asarray(masks.valid)[0, c])
        if own.any():
            assert abs(float(np.asarray(masks.scores)[0, c]) - probs[c + 1][own].mean()) < 1e-4


def test_padding_and_the_rest_of_the_batch_change_nothing(dense):
    text = dense.classes(NAMES)
    sizes = [SIZE, (64, 40)]
    canvas, valid = np.full((3, 64, 64, 3), 77, np.uint8), np.zeros((3, 64, 64), bool)
    for i, (h, w) in enumerate(sizes):
        canvas[i, :h, :w] = draw((h, w), i)
        valid[i, :h, :w] = True
    # The third picture is nothing at all, as what fills up a last batch is.
    run = quick_jit(dense.segment)
    traced = run(dense.params, canvas, text, valid)
    labels = np.asarray(to_label_map(traced))
    assert not labels[~valid].any() and np.isfinite(np.asarray(traced.scores)).all()
    noisy = np.where(valid[..., None], canvas, 200).astype(np.uint8)
    again = run(dense.params, noisy, text, valid)
    np.testing.assert_array_equal(traced.probs, again.probs)
    image, _ = whole_picture(dense)
    alone = np.asarray(to_label_map(dense.segment(dense.params, image, text)))[0]
    h, w = SIZE
    # Programs differ in the last bits, which may move a border by a pixel.
    assert (labels[0, :h, :w] == alone).mean() > 0.98
    wrong = np.zeros((3, 64, 64), bool)
    wrong[:, 5:, 5:] = True
    with pytest.raises(UserError, match="rectangle"):
        dense.segment(dense.params, canvas, text, wrong)


def test_pure_under_vmap(dense):
    text = dense.classes(NAMES)
    images = np.stack([draw(SIZE, i) for i in range(2)])
    both = np.asarray(dense.dense(dense.params, images, text))
    rows = np.asarray(text.rows)

    def one(image):
        cosines = dense.reader.dense(dense.params, image[None], rows)
        return dense.reader.probabilities(cosines, text)[0]

    mapped = np.asarray(quick_jit(jax.vmap(one))(images))
    np.testing.assert_allclose(mapped[:, :4], both, atol=5e-4)
    np.testing.assert_allclose(both[0], whole_picture(dense)[1], atol=5e-4)


def reader(**settings):
    config = configure(**settings)
    vision = VisionConfig(32, 8, 32, 2, 2, 64, "quick_gelu")
    return Reader(
        VisionTransformer(vision, 16), config.plan(vision), (0, 0, 0), (1, 1, 1), config.last,
        config.std, None, config.logit_scale, config.bg_threshold, config.min_share,
    )  # fmt: skip


def test_background_rules():
    # Rows: background, two classes; six pixels.
    probs = np.array(
        [[0.5, 0.1, 0.1, 0.3, 0.3, 0.1], [0.3, 0.6, 0.5, 0.4, 0.3, 0.6],
         [0.2, 0.3, 0.4, 0.3, 0.35, 0.3]], np.float32
    )[None, :, None]  # fmt: skip

    def label(valid=None, **settings):
        return np.asarray(to_label_map(reader(**settings).decide(probs, valid)))[0, 0].tolist()

    assert label() == [0, 1, 1, 1, 2, 1]
    assert label(bg_threshold=0.45) == [0, 1, 1, 0, 0, 1]
    # Class 2 wins 1 of the 5 foreground pixels; class 1 takes over where it beats background.
    assert label(min_share=0.19) == [0, 1, 1, 1, 2, 1]
    assert label(min_share=0.25) == [0, 1, 1, 1, 0, 1]
    valid = np.array([[[True] * 5 + [False]]])
    assert label(valid) == [0, 1, 1, 1, 2, 0]
    assert label(valid, min_share=0.24) == [0, 1, 1, 1, 2, 0]


def test_synonyms_compete_and_the_best_counts():
    rng = np.random.default_rng(0)
    rows = unit(rng.normal(size=(6, 16))).astype(np.float32)
    # Classes: rows 0 and 1; 2; 3 and 4. Row 5 is a background.
    text = from_embeddings(rows, rivals=1, owners=[0, 0, 1, 2, 2])
    cosines = rng.uniform(-1, 1, (1, 6, 3, 3)).astype(np.float32)
    laid = np.zeros((1, len(text.rows), 3, 3), np.float32)
    for i, row in enumerate(rows):
        laid[:, np.flatnonzero((np.asarray(text.rows) == row).all(axis=1))[0]] = cosines[:, i]
    got = np.asarray(reader(logit_scale=3.0).probabilities(laid, text))
    soft = np.exp(3 * cosines[0])
    soft /= soft.sum(axis=0)
    want = [soft[5], soft[:2].max(axis=0), soft[2], soft[3:5].max(axis=0)]
    np.testing.assert_allclose(got[0, :4], want, atol=1e-6)
    assert not got[0, 4:].any() and len(text.rows) % 8 == 0


def test_texts_that_are_asked_for_are_no_background(dense):
    clip = dense.clip
    config = configure(**{**SETTINGS, "background": ("lemon", "sky")})
    kinds = lambda text: np.bincount(np.asarray(text.kind), minlength=3)[1:].tolist()  # noqa: E731
    assert kinds(build(config, clip, ["zebra", "grass, sky"])) == [3, 1]
    kept = configure(**{**SETTINGS, "background": ("lemon", "sky"), "keep_shared": True})
    assert kinds(build(kept, clip, ["zebra", "grass, sky"])) == [3, 2]
    assert kinds(build(config, clip, ["zebra"], ())) == [1, 0]
    for wrong in ([], ["zebra", "zebra"], [" "], "zebra"):
        with pytest.raises(UserError, match="names"):
            dense.classes(wrong)


def test_whole_mode_resamples_positions_to_the_image(tiny_model):
    whole = load(tiny_model, **{**SETTINGS, "mode": "whole"})
    text = whole.classes(NAMES)
    image, valid = draw((24, 40))[None], np.zeros((1, 32, 40), bool)
    masks = whole.segment(whole.params, image, text)
    assert masks.probs.shape == (1, 3, 24, 40)
    canvas = np.zeros((1, 32, 40, 3), np.uint8)
    canvas[:, :24], valid[:, :24] = image, True
    padded = whole.segment(whole.params, canvas, text, valid)
    np.testing.assert_array_equal(padded.probs[:, :, :24], masks.probs)
    with pytest.raises(UserError, match="slide"):
        jax.jit(whole.segment)(whole.params, canvas, text, valid)


def test_from_the_command_line(tiny_model, tmp_path, capsys, picture):
    out = tmp_path / "out"
    call = ["segment", str(picture), "--labels", "zebra, grass, sky", "--model", str(tiny_model)]
    call += ["--background", "none", "--out", str(out)]
    assert cli.main([*call, "--method", "clip_dense", "--variant", "sclip"]) == 0
    record = json.loads((out / "photo.json").read_text())["provenance"]
    assert record["method"] == "ClipDense" and record["models"][0]["name"] == "tiny"
    assert record["settings"]["variant"] == "sclip"
    capsys.readouterr()
    assert cli.main([*call, "--method", "clip_dense", "--variant", "sclipp"]) == 2
    assert "sclip" in capsys.readouterr().err
    assert cli.main([*call, "--variant", "sclip"]) == 2
    assert "--variant" in capsys.readouterr().err

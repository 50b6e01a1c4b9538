"""SegCLIP as a segmenter: windows, the background rule, padding, and the command line."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from openseg_jax.cli import main as cli
from openseg_jax.errors import UserError
from openseg_jax.methods.base import Segmenter, load_segmenter
from openseg_jax.methods.segclip import region_scores
from openseg_jax.methods.segclip_config import configure, presets
from openseg_jax.methods.segclip_texts import from_embeddings
from openseg_jax.methods.windows import back, start, window_count
from openseg_jax.models.segclip import SegCLIPConfig
from openseg_jax.models.variants import CLIPConfig, Preprocess, TextConfig, VisionConfig
from openseg_jax.ops.masks import to_label_map
from openseg_jax.ops.resize import half_pixel
from openseg_jax.text.tokenizer import word_tokenizer
from openseg_jax.weights.folder import load_folder
from openseg_jax.weights.segclip import segclip_spec
from openseg_jax.weights.segclip_folder import save_segclip
from openseg_jax.weights.tree import unflatten
from tests.segclip.models import quick_jit

WORDS = ["a", "photo", "of", "zebra", "grass", "sky", "lemon"]
CONFIG = SegCLIPConfig(
    CLIPConfig(
        "tiny", 16, VisionConfig(32, 8, 32, 3, 2, 64, "quick_gelu", pos_resample="bicubic"),
        TextConfig(10, len(WORDS) + 4, 32, 1, 2, 64, "quick_gelu"),
    ),
    first_blocks=2, centers=4, cross_layers=1, recon_blocks=1, decoder_width=8, decoder_depth=1,
    decoder_heads=2, mask_ratio=0.5,
)  # fmt: skip

# That of the fixture `picture` too, so that all tests share what was compiled.
SIZE = (40, 48)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    params = {n: rng.normal(0, 0.3, x.shape).astype("f4") for n, x in segclip_spec(CONFIG).items()}
    params["logit_scale"] = np.float32(2.0)
    path = tmp_path_factory.mktemp("segclip") / "model"
    save_segclip(
        path, CONFIG, unflatten(params), Preprocess(32), word_tokenizer(WORDS, 10),
        {"name": "tiny", "source": "tests", "licence": "Apache-2.0", "saw": "nothing"},
        {"segclip": {"bg_threshold": 0.3}},
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def segclip(folder):
    return load_segmenter("segclip", folder)


def draw(size, seed=0):
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3))
    return np.kron(rough, np.ones((8, 8, 1)))[: size[0], : size[1]].astype(np.uint8)


def test_a_segmenter_with_the_folders_settings(segclip, folder):
    assert isinstance(segclip, Segmenter) and segclip.config.bg_threshold == 0.3
    assert load_segmenter("segclip", folder, parity="reference").config.bg_threshold == 0.8
    with pytest.raises(UserError, match="bg_threshold"):
        load_segmenter("segclip", folder, bg_treshold=0.5)
    plain = dataclasses.replace(load_folder(folder), extras={})
    with pytest.raises(UserError, match=r"convert segclip\.bin"):
        load_segmenter("segclip", plain)


def test_settings_are_checked():
    for wrong in ({"mode": "slid"}, {"templates": ("zebra",)}, {"bg_threshold": 2.0},
                  {"top_classes": 0}):  # fmt: skip
        with pytest.raises(UserError):
            configure(**wrong)
    vision = CONFIG.clip.vision
    for wrong in ({"crop": 30}, {"stride": 40}, {"long_side": 16}):
        with pytest.raises(UserError):
            configure(**wrong).plan(vision)
    assert [presets(name)["bg_threshold"] for name in ("voc", "context", "coco")] == [
        0.8, 0.25, 0.65,
    ]  # fmt: skip
    with pytest.raises(UserError, match="voc"):
        presets("vocc")


@pytest.mark.parametrize("size", [(48, 40), (37, 90), (32, 32), (20, 33), (33, 700)])
def test_windows_bring_the_whole_image_back(size):
    plan = configure(stride=24, long_side=320).plan(CONFIG.clip.vision)
    traced = jax.jit(plan.work_size)(*(np.int32(n) for n in size))
    work = plan.work_size(*size)
    assert work == tuple(int(n) for n in traced) and max(work) <= 320
    for n, length in zip(work, size, strict=True):
        count = window_count(plan, n)
        assert 1 <= count <= plan.most_windows
        total = np.zeros((length, max(n, plan.crop) + plan.crop))
        for i in range(count):
            at = start(plan, i, n)
            total[:, at : at + plan.crop] += back(plan, length, length, n, at, plan.crop)
        np.testing.assert_allclose(total[:, :n], half_pixel(n, length), atol=1e-5)
        assert not total[:, n:].any()


def test_regions_below_the_threshold_are_background_but_never_all():
    rng = np.random.default_rng(0)
    image, regions = rng.normal(size=(2, 8)), rng.normal(size=(2, 4, 8))
    text = from_embeddings(rng.normal(size=(7, 8)))
    score = functools.partial(region_scores, image, regions, text, np.float32(3.0), top_classes=5)
    free = np.asarray(score(bg_threshold=None))
    assert (free[..., 0] == -1).all() and (free[..., 8:] == 0).all()
    assert ((free[..., 1:8] > 0).sum(axis=-1) == 5).all()
    best = free[..., 1:].max(axis=-1)
    strict = np.asarray(score(bg_threshold=1.0))[..., 0]
    np.testing.assert_array_equal(strict, best < best.max(axis=1, keepdims=True))
    middle = float(np.median(best))
    np.testing.assert_array_equal(
        np.asarray(score(bg_threshold=middle))[..., 0],
        best < np.minimum(middle, best.max(axis=1, keepdims=True)),
    )
    # Fewer classes than may be kept: padding is not one of them.
    few = from_embeddings(rng.normal(size=(3, 8)))
    out = np.asarray(region_scores(image, regions, few, np.float32(3.0), top_classes=5,
                                   bg_threshold=None))  # fmt: skip
    assert np.isfinite(out).all() and (out[..., 4:] == 0).all() and (out[..., 1:4] > 0).all()


@pytest.mark.slow
def test_masks_are_the_best_scores_and_padding_changes_nothing(segclip):
    text = segclip.classes(["zebra", "grass", "sky"])
    assert segclip.classes(["zebra", "grass", "sky"]) is text
    image, (h, w) = draw(SIZE), SIZE
    masks = segclip.segment(segclip.params, image[None], text)
    dense = quick_jit(segclip.reader.dense)(segclip.params, image[None], text)
    dense = np.asarray(dense)[:, :4]
    labels = np.asarray(to_label_map(masks))
    assert masks.probs.shape == (1, 3, *SIZE) and masks.scores.shape == (1, 3)
    assert dense.shape == (1, 4, *SIZE)
    ranked = np.sort(dense, axis=1)
    clear = ranked[:, -1] - ranked[:, -2] > 1e-4
    np.testing.assert_array_equal(labels[clear], dense.argmax(axis=1)[clear])
    assert clear.mean() > 0.9 and (np.asarray(masks.probs).sum(axis=1) <= 1).all()

    canvas = np.full((1, 64, 64, 3), 77, np.uint8)
    canvas[0, :h, :w] = image
    valid = np.zeros((1, 64, 64), bool)
    valid[0, :h, :w] = True
    traced = quick_jit(segclip.segment)(segclip.params, canvas, text, valid)
    got = np.asarray(to_label_map(traced))
    assert not got[~valid].any()
    same = got[:, :h, :w] == labels
    # Programs differ in the last bits, which may move a border by a pixel.
    assert same.mean() > 0.98
    np.testing.assert_allclose(traced.scores, masks.scores, atol=1e-3)
    alone = segclip.segment(segclip.params, canvas, text, valid)
    np.testing.assert_array_equal(alone.probs[:, :, :h, :w], masks.probs)
    with pytest.raises(UserError, match="rectangle"):
        segclip.segment(segclip.params, canvas, text, ~valid)


def test_rivals_take_pixels_and_are_not_reported(segclip):
    image = draw(SIZE, 1)[None]
    alone = segclip.segment(segclip.params, image, segclip.classes(["zebra"]))
    names = ["grass", "sky", "lemon"]
    rivals = segclip.segment(segclip.params, image, segclip.classes(["zebra"], names))
    assert rivals.probs.shape == alone.probs.shape == (1, 1, *SIZE)
    assert np.asarray(rivals.probs).sum() <= np.asarray(alone.probs).sum()
    for wrong in ([], ["zebra", "zebra"], [" "], "zebra"):
        with pytest.raises(UserError, match="names"):
            segclip.classes(wrong)


def test_from_the_command_line(folder, tmp_path, capsys, picture):
    out = tmp_path / "out"
    call = ["segment", str(picture), "--labels", "zebra, grass, sky", "--method", "segclip"]
    assert cli.main([*call, "--model", str(folder), "--out", str(out)]) == 0
    record = json.loads((out / "photo.json").read_text())["provenance"]
    assert record["method"] == "SegClip" and record["models"][0]["name"] == "tiny"
    assert record["settings"]["bg_threshold"] == 0.3
    capsys.readouterr()
    assert cli.main([*call, "--model", str(folder), "--sam", "SAM-B"]) == 2
    assert "--sam" in capsys.readouterr().err

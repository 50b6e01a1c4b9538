"""CaR as a whole on tiny random models: what must not matter does not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.methods import car_geometry
from openseg_jax.methods.base import Segmenter, load_segmenter
from openseg_jax.methods.car import CaR, _scene
from openseg_jax.methods.car_config import PARITY_FLAGS, CaRConfig, configure, presets
from openseg_jax.methods.car_refer import clean_sentence, refer, referring
from openseg_jax.methods.car_texts import pad
from openseg_jax.methods.car_things_stuff import two_pass
from openseg_jax.ops.cam import min_max
from tests.car.models import car, picture, random_text, tiny_clip

SETTINGS = {"confidence_threshold": 0.2, "refine": "none", "score_rule": "mean"}


@functools.cache
def clips():
    return tiny_clip(0), tiny_clip(1, size=16, depth=2)


@functools.cache
def setup(count=5, **settings):
    cam, cls = clips()
    return car(cam, cls, **{**SETTINGS, **settings}), random_text(cam, cls, count)


# Among the first 60 these two keep the greatest distance from every threshold (8e-5 of a map's
# pixel, 0.2 of a score): another processor's order of sums shall not decide what the tests see.
IMAGE, OTHER = picture(50, 43, seed=56), picture(50, 43, seed=58)


@functools.cache
def reference():
    seg, text = setup()
    return seg.predict(IMAGE, text)


def close(one, two, atol, edge=0.05):
    """Compares text by text: the median is equal to rounding, and no text is far.

    A pixel on the edge of a threshold may fall on either side, and moves its own text's score by
    more than rounding. It cannot move the others'; a wrong variant moves all.
    """
    axes = tuple(range(1, np.ndim(one)))
    apart = np.abs(np.asarray(one, np.float64) - two).max(axis=axes)
    assert np.median(apart) <= atol and apart.max() <= edge, apart


def same(one, two, atol=2e-5):
    np.testing.assert_array_equal(one.alive, two.alive)
    close(one.scores[one.alive], two.scores[one.alive], atol)
    close(one.maps[one.alive], two.maps[one.alive], 10 * atol, edge=0.5)
    assert one.steps == two.steps
    assert (one.masks != two.masks).mean() < 1e-3


def test_texts_are_dropped_until_the_set_is_stable():
    result = reference()
    assert 2 <= result.steps <= 6
    assert 0 < result.alive.sum() < 5
    assert not result.masks[~result.alive].any() and not result.scores[~result.alive].any()
    assert result.masks.any() and set(np.unique(result.label_map())) <= {0, 1, 2, 3, 4, 5}


@pytest.mark.slow
def test_jitted_loop_equals_host_loop_and_batch_equals_singles():
    seg, text = setup()
    images = np.stack([IMAGE, OTHER])
    masks = jax.jit(seg.segment)(seg.params, images, text)
    for i, image in enumerate(images):
        single = seg.predict(image, text)
        np.testing.assert_array_equal(masks.valid[i], single.alive)
        close(masks.scores[i][single.alive], single.scores[single.alive], 2e-5)
        assert (np.asarray(masks.probs[i] > 0.5) != single.masks).mean() < 1e-3
    host = seg.segment(seg.params, images, text)
    np.testing.assert_array_equal(host.valid, masks.valid)
    np.testing.assert_allclose(host.scores, masks.scores, atol=0.05)


def test_padding_texts_changes_nothing():
    seg, text = setup()
    same(reference(), _cut(seg.predict(IMAGE, pad(text, 9)), 5))


def _cut(result, count):
    assert not result.alive[count:].any()
    return dataclasses.replace(
        result, masks=result.masks[:count], scores=result.scores[:count],
        alive=result.alive[:count], maps=result.maps[:count],
    )  # fmt: skip


def test_padding_images_changes_nothing():
    seg, text = setup()
    other = CaR(seg.cam, seg.classifier, dataclasses.replace(seg.config, canvas=32))
    padded = other.predict(IMAGE, text)
    h, w = reference().maps.shape[1:]
    assert padded.maps.shape[1:] == (8, 8)
    # The prompts' blur and the resizes all stop at the true border.
    padded = dataclasses.replace(padded, maps=padded.maps[:, :h, :w])
    same(reference(), padded, atol=1e-4)


@pytest.mark.slow
def test_traced_sizes_equal_known_sizes():
    seg, text = setup()
    canvas = np.zeros((1, 64, 64, 3), np.uint8)
    canvas[0, :50, :43] = IMAGE
    valid = np.zeros((1, 64, 64), bool)
    valid[0, :50, :43] = True
    masks = jax.jit(seg.segment)(seg.params, canvas, text, valid)
    np.testing.assert_array_equal(masks.valid[0], reference().alive)
    alive = reference().alive
    close(masks.scores[0][alive], reference().scores[alive], 1e-3)
    inside = np.asarray(masks.probs[0] > 0.5)
    assert not inside[:, 50:].any() and not inside[:, :, 43:].any()
    assert (inside[:, :50, :43] != reference().masks).mean() < 5e-3


@pytest.mark.parametrize("size", [(50, 43), (16, 80), (97, 31), (64, 64)])
@pytest.mark.parametrize("convention", ["bilinear", "bicubic_antialias", "zoom_linear"])
def test_traced_geometry_equals_the_exact_one(size, convention):
    seg = car(*clips(), pos_resample=convention)
    plan = seg.stepper((100, 90), padded=True).proposer.plan
    exact = car_geometry.exact(plan, size)
    traced = jax.jit(lambda s: car_geometry.measure(plan, s))(jnp.asarray(size, jnp.int32))
    for name in ("size", "grid", "rows", "columns", "up_rows", "up_columns"):
        ours = np.asarray(getattr(traced, name))
        want = np.asarray(getattr(exact, name))
        if name in ("rows", "columns"):  # rows of patches that do not exist are never used
            count = int(exact.grid[int(name == "columns")])
            ours, want = ours[:count], want[:count]
        np.testing.assert_allclose(ours, want, atol=3e-6, err_msg=name)
    power = np.array([1, 256, 65536], np.float64)[:, None, None] / 2**22
    for side in ("cam", "classifier"):
        for part in ("rows", "columns"):
            ours = np.asarray(getattr(getattr(traced, side), part), np.float64)
            want = np.asarray(getattr(getattr(exact, side), part), np.float64)
            np.testing.assert_allclose((ours * power).sum(0), (want * power).sum(0), atol=1e-6)


def test_closed_form_equals_automatic_differentiation_of_the_probability():
    seg, text = setup()
    stepper = seg.stepper(IMAGE.shape[:2], padded=False)
    proposer, visual = stepper.proposer, seg.params["cam"]["visual"]
    geometry = car_geometry.exact(proposer.plan)
    e = _scene(stepper, seg.params, IMAGE, geometry, joint=False).encoded
    scale = np.exp(seg.params["cam"]["logit_scale"])
    vectors = np.concatenate([text.cam, text.background])
    block, last = proposer.tower.block(), jax.tree.map(lambda x: x[-1], visual["blocks"])

    def probability(a, k):
        q, k_, v = block.apply({"params": last}, a[None], method="project_in")
        from openseg_jax.ops.attention import attention

        out = attention(q, k_, v, backend="xla")[0]
        f = proposer._feature(visual, e.tokens, e.patches, out)
        return jax.nn.softmax(scale * vectors @ f)[k]

    normed = block.apply({"params": last}, e.tokens[None], method="normed")[0]
    maps = jax.jit(proposer.maps)(
        visual, scale, e, text.cam, text.background, np.ones(5, bool), np.int32(5)
    )
    grad = jax.jit(jax.grad(probability))
    for k in range(5):
        w = grad(normed, k)[1:].mean(axis=0)
        want = min_max(jax.nn.relu(e.activations @ w)[None])[0]
        np.testing.assert_allclose(maps[k], want, atol=2e-4)


@pytest.mark.slow
def test_masks_of_a_source_replace_its_own():
    seg, text = setup()
    asked = []

    def source(image):
        asked.append(image)
        return reference().masks[reference().alive] ^ (np.arange(43) == 20)

    settings = dataclasses.replace(seg.config, sam_iou=-1.0, sam_iom=0.9)
    other = CaR(seg.cam, seg.classifier, settings, masks=source)
    canvas, valid = np.zeros((1, 64, 64, 3), np.uint8), np.zeros((1, 64, 64), bool)
    canvas[0, :50, :43], valid[0, :50, :43] = IMAGE, True
    for changed in (None, 64):
        if changed:
            other = CaR(seg.cam, seg.classifier, dataclasses.replace(settings, canvas=64),
                        masks=other.masks)  # fmt: skip
        result = other.predict(IMAGE, text)
        assert result.masks.shape == reference().masks.shape
        assert (result.masks != reference().masks)[:, :, 20].any()
        close(result.scores, reference().scores, 1e-3)
    (one,) = asked
    np.testing.assert_array_equal(one, IMAGE)
    assert other.host_only and not seg.host_only
    with pytest.raises(UserError, match="sam: masks are matched on the host"):
        jax.jit(other.segment)(seg.params, canvas, text, valid)


@pytest.mark.slow
def test_pulling_back_joint_axes_equals_pulling_back_texts():
    seg, _ = setup()
    text = random_text(seg.cam, seg.classifier, 30)
    assert seg.joint(text)
    one_by_one = CaR(seg.cam, seg.classifier, seg.config)
    one_by_one.joint = lambda text: False
    same(seg.predict(IMAGE, text), one_by_one.predict(IMAGE, text), atol=1e-4)


def test_one_text_takes_one_step_and_scores_one():
    seg, _ = setup()
    text = random_text(seg.cam, seg.classifier, 1)
    result = seg.predict(IMAGE, text)
    assert result.steps == 1 and result.scores[0] == pytest.approx(1) and result.alive.all()


@pytest.mark.slow
def test_a_lone_text_without_rivals_is_empty_in_parity_only():
    cam, cls = clips()
    text = random_text(cam, cls, 1, rivals=0)
    parity = car(cam, cls, parity="reference", refine="none").predict(IMAGE, text)
    assert not parity.maps.any() and not parity.masks.any() and parity.steps == 2
    assert setup()[0].predict(IMAGE, text).maps.max() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("pool, depth, patch", [("mean", 2, 8), ("map", 3, 16)])
def test_other_models_run(pool, depth, patch):
    cam = tiny_clip(2, pool=pool, depth=depth, patch=patch)
    cls = tiny_clip(3, pool=pool, depth=depth, patch=patch, resize="squash")
    seg = car(cam, cls, **SETTINGS)
    result = seg.predict(IMAGE, random_text(cam, cls, 3))
    assert np.isfinite(result.scores).all() and result.maps.max() == pytest.approx(1)


@pytest.mark.slow
def test_bfloat16_is_close_to_float32():
    seg, text = setup(confidence_threshold=0.0)
    half = CaR(seg.cam, seg.classifier, seg.config, dtype="bfloat16")
    one, two = seg.predict(IMAGE, text), half.predict(IMAGE, text)
    np.testing.assert_allclose(one.scores, two.scores, atol=0.1)
    assert np.abs(one.maps - two.maps).mean() < 0.05


@pytest.mark.slow
def test_words_to_masks_modes_and_protocol():
    cam, cls = clips()
    seg = load_segmenter("car", cam, classifier=cls, **SETTINGS)
    assert isinstance(seg, Segmenter)
    text = seg.classes(["zebra", "grass"], background=["sky", "zebra"])
    assert text.background.shape[0] == 1 and text.names == ("zebra", "grass")
    config = referring(configure(**SETTINGS))
    merged, result = refer(CaR(cam, cls, config), IMAGE, ['The "Zebra"', "a lemon"], size=(20, 30))
    assert merged.shape == (20, 30) and result.names == ("the zebra", "a lemon")
    label, things, stuff = two_pass(seg, ["zebra"], ["grass", "sky"]).predict(IMAGE)
    assert set(np.unique(label)) <= {0, 1, 2, 3} and stuff.masks.shape[0] == 2
    wide = two_pass(seg, ["zebra"], ["sand"], thing_ids=[7], stuff_ids=[9])
    assert set(np.unique(wide.predict(IMAGE)[0])) <= {0, 8, 10}
    assert clean_sentence('Left "GUY" / red') == "left guy  red"
    del things


def test_character_bug_texts():
    cam, cls = clips()
    seg = CaR(cam, cls, referring(configure(parity="reference")))
    text = seg.classes(["a zebra", "lemon"])
    assert text.later.shape == (2, 2, cls.config.embed_dim) and not text.templated
    # All sentences begin alike, so their "templates" are the same characters.
    np.testing.assert_array_equal(text.later[0], text.later[1])
    assert CaR(cam, cls, referring(CaRConfig())).classes(["lemon"]).later is None
    with pytest.raises(UserError, match="char_bug"):
        seg.classes([f"{i}" for i in range(25)])


def test_parity_expands_to_flags_and_names_are_checked():
    config = configure(parity="reference", box_border_quirk=False)
    assert config.char_bug and config.score_rule == "sum" and not config.box_border_quirk
    flags = {f.name: getattr(CaRConfig(), f.name) for f in dataclasses.fields(CaRConfig)}
    same_by_default = [k for k, v in PARITY_FLAGS.items() if flags[k] == v]
    assert same_by_default == ["classifier_fit"]
    for bad in ({"mask_treshold": 0.4}, {"refine": "dense"}, {"pixels": "both"},
                {"crf": "none"}, {"pamr_iterations": -1},
                {"sam_settings": ("points",)}, {"mask_threshold": 2.0},
                {"clipes_threshold": 0}, {"visual_prompts": ("blurr",)},
                {"templates": ("a photo",)}, {"parity": "paper"}):  # fmt: skip
        with pytest.raises(UserError):
            configure(**bad)
    with pytest.raises(UserError, match="voc"):
        presets("vok")
    assert configure(parity="reference", **presets("gres")).competition == "alone"
    with pytest.raises(UserError, match="car"):
        load_segmenter("cra", clips()[0])
    seg, text = setup()
    for names in ([], "zebra", ["zebra", "zebra"], [" "]):
        with pytest.raises(UserError):
            seg.classes(names)
    with pytest.raises(UserError, match="uint8"):
        seg.predict(IMAGE.astype(np.float32), text)
    hole = np.ones((1, 50, 43), bool)
    hole[0, 3, 3] = False
    with pytest.raises(UserError, match="top left"):
        seg.segment(seg.params, IMAGE[None], text, hole)

"""MAFT golden: inference from a stubbed generator's mask logits to the label map."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import numpy as np
import pytest

from openseg_jax.methods.maft import Maft
from openseg_jax.methods.maft_config import configure
from openseg_jax.methods.maft_scores import class_logits, class_probabilities, ensemble
from openseg_jax.methods.maft_texts import from_embeddings
from openseg_jax.models.variants import CLIPConfig, Preprocess, TextConfig
from openseg_jax.ops.masks import to_label_map
from openseg_jax.ops.resize import resize
from openseg_jax.text.tokenizer import word_tokenizer
from openseg_jax.weights.loaded import LoadedClip
from openseg_jax.weights.report import Report
from tests import golden
from tests.maft import towers

CASE = pytest.mark.parametrize("path", golden.cases("maft", "maft_e2e"), ids=lambda p: p.stem)
ATOL = 1e-4


class Stub:
    """Hands on mask logits as the published model does with its generator's."""

    def __init__(self, logits):
        self.params: Mapping = {"logits": logits}

    def propose(self, params, image, text, valid=None):
        probs = jax.nn.sigmoid(
            resize(params["logits"], image.shape[1:3], convention="align_corners")
        )
        return probs, np.ones(probs.shape[:2], bool)


@functools.cache
def setup(path):
    a, meta = golden.load(path)
    tuned = {k[len("w/IPCLIP.") :]: v for k, v in a.items() if k.startswith("w/IPCLIP.")}
    prefix = "w/clip_adapter.clip_model.visual."
    frozen = tuned | {k[len(prefix) :]: v for k, v in a.items() if k.startswith(prefix)}
    towers_ = [
        towers.visual({f"visual.{k}": v for k, v in state.items()}, meta["config"])
        for state in (tuned, frozen)
    ]
    vision = towers_[0][0].config
    tokenizer = word_tokenizer(("a",), 8)
    text = TextConfig(8, 8, 8, 1, 1, 8, "quick_gelu")
    config = CLIPConfig("golden", meta["config"]["embed"], vision, text)
    clip = LoadedClip(
        config, {"visual": towers_[1][1]}, Preprocess(meta["config"]["pretrain_res"]),
        tokenizer, {}, {}, Report("golden"), extras={"maft": {"visual": towers_[0][1]}},
    )  # fmt: skip
    return a, meta, clip


def system(path, *, logits, **settings):
    _, meta, clip = setup(path)
    about = meta["config"]
    settings = {
        "start": about["start_layers"], "size": about["clip_input"], "short_edge": 0,
        "temperature": about["temperature"], **settings,
    }  # fmt: skip
    return Maft(clip, Stub(logits), configure(parity="reference", **settings))


@functools.cache
def segmented(path, tower="tuned", pad_to=32):
    a, meta, _ = setup(path)
    maft = system(path, logits=a["in/eval.pred_masks_f16"].astype(np.float32), tower=tower,
                  pad_to=pad_to)  # fmt: skip
    text = from_embeddings(a["in/text_features_with_nonobject"][:-1])
    image = np.moveaxis(a["in/eval.image_u8"], 1, -1)
    return a, meta, maft, maft.segment(maft.params, image, text)


def evidence(masks):
    return np.einsum("bmc,bmhw->bchw", masks.scores, masks.probs)[0]


@CASE
def test_maft_golden_eval_segments(path):
    a, meta, maft, masks = segmented(path)
    want = a["out/eval.semseg_at_input_res_sub4"]
    got = evidence(masks)
    assert list(got.shape[1:]) == meta["eval"]["image_hw"]
    np.testing.assert_allclose(got[:, ::4, ::4], want, atol=ATOL)
    out = np.asarray(resize(got, tuple(meta["eval"]["out_hw"])))
    np.testing.assert_allclose(out, a["out/eval.sem_seg"], atol=ATOL)
    # The label map made from masks is the same: the sum and the resize commute.
    small = dataclasses.replace(masks, probs=resize(masks.probs, tuple(meta["eval"]["out_hw"])))
    labels = np.asarray(to_label_map(small, threshold=maft.threshold))[0] - 1
    ranked = np.sort(a["out/eval.sem_seg"], axis=0)
    clear = ranked[-1] - ranked[-2] > 10 * ATOL
    np.testing.assert_array_equal(labels[clear], a["out/eval.argmax_u8"][clear])


@CASE
def test_maft_golden_eval_test_can_fail(path):
    a, _, _, masks = segmented(path, pad_to=0)
    want = a["out/eval.semseg_at_input_res_sub4"]
    assert np.abs(evidence(masks)[:, ::4, ::4] - want).max() > 10 * ATOL


@CASE
def test_maft_golden_eval_scores(path):
    a, _, _, masks = segmented(path)
    logits = a["out/eval.proposal_logits"]
    shifted = logits[:, :-1] - logits[:, :-1].max(axis=1, keepdims=True)
    want = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(masks.scores)[0], want, atol=ATOL)


@CASE
def test_maft_golden_proposal_logits(path):
    a, meta, _ = setup(path)
    rows = a["in/text_features_with_nonobject"]
    features = a["out/train.proposal_features_unnorm"]
    got = class_logits(features, rows, temperature=meta["config"]["temperature"])
    np.testing.assert_allclose(got, a["out/train.proposal_logits"], atol=2e-3)
    # The non-object column is dropped before the softmax, not after.
    got = class_probabilities(features, rows[:-1], temperature=meta["config"]["temperature"])
    np.testing.assert_allclose(np.asarray(got).sum(axis=-1), 1, atol=1e-5)


@CASE
def test_maft_golden_frozen_baseline(path):
    # The baseline takes masks without the padding but the image with it, and drops masks that
    # have no pixel above one half.
    a, _, _, _ = segmented(path)
    maft = system(path, logits=a["in/eval.pred_masks_f16"].astype(np.float32), tower="frozen")
    image = np.moveaxis(a["in/eval.image_u8"], 1, -1)
    canvas = maft.encoder.canvas(image.shape[1:3])
    logits = resize(a["in/eval.pred_masks_f16"], canvas, convention="align_corners")
    probs = jax.nn.sigmoid(logits)[..., : image.shape[1], : image.shape[2]]
    encoder = maft.encoder
    encode = jax.jit(lambda p, x, m: encoder.encode(p, encoder.pixels(x), m))
    vectors = encode(maft.params["visual"], image, probs)
    rows = a["in/text_features_with_nonobject"][:-1]
    scores = class_probabilities(vectors, rows, temperature=maft.config.temperature)
    kept = (probs > 0.5).any(axis=(2, 3))
    got = np.einsum("bmc,bmhw->bchw", scores * kept[..., None], probs)[0]
    np.testing.assert_allclose(
        got[:, ::4, ::4], a["out/frozen_eval.semseg_at_input_res_sub4"], atol=ATOL
    )


@CASE
def test_maft_golden_ensembles(path):
    a, meta, _ = setup(path)
    masks = jax.nn.sigmoid(a["in/ens.mask_pred_logits"])
    generator = jax.nn.softmax(a["in/ens.mask_cls_logits"], axis=-1)[:, :-1]
    clip = jax.nn.softmax(a["in/ens.clip_logits"][:, :-1], axis=-1)
    covers = (masks > 0.5).any(axis=(1, 2))
    flags = {"flag": np.asarray(meta["ens_seen_flag"], bool), "noflag": None}

    def joined(weight, seen, covers=covers):
        scores = ensemble(clip, generator, weight=weight, seen=seen, covers=covers)
        return np.einsum("mc,mhw->chw", scores, masks)

    for weight in meta["ens_weights"]:
        for name, seen in flags.items():
            want = a[f"out/ens.w{weight}.{name}"]
            np.testing.assert_allclose(joined(weight, seen), want, atol=ATOL, err_msg=name)
    np.testing.assert_allclose(joined(None, None), a["out/ens.disabled"], atol=ATOL)
    weight = max(meta["ens_weights"])
    wrong = joined(weight, ~flags["flag"])
    assert np.abs(wrong - a[f"out/ens.w{weight}.flag"]).max() > 10 * ATOL

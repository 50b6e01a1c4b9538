"""CaR golden: things and stuff in two passes."""

import dataclasses

import numpy as np
import pytest

from openseg_jax.methods.car import CaR
from openseg_jax.methods.car_config import configure
from openseg_jax.methods.car_texts import from_embeddings
from openseg_jax.methods.car_things_stuff import two_pass
from tests import golden
from tests.car.models import embed_ids
from tests.car.traces import models, settings_of

CASES = [p for p in golden.cases("car", "thing_stuff") if "in/tok_bg" in golden.load(p)[0]]


def passes(path):
    a, meta = golden.load(path)
    cam, cls = models(path.parent, meta)
    things, stuff = meta["thing_cfg"], meta["stuff_cfg"]
    config = configure(
        parity="reference", **settings_of(a, {"common": meta["common"]}),
        visual_prompts=things["visual_prompt"], bg_factor=things["bg_factor"],
        stuff_visual_prompts=stuff["visual_prompt"], stuff_bg_factor=stuff["bg_factor"],
    )  # fmt: skip

    def text(kind, background):
        return from_embeddings(
            embed_ids(cam, a[f"in/tok_{kind}_cam"]), embed_ids(cls, a[f"in/tok_{kind}_sem"]),
            raw=embed_ids(cam, a[f"in/tok_{kind}_raw"]), background=embed_ids(cam, background),
            names=meta[kind],
        )  # fmt: skip

    both = two_pass(
        CaR(cam, cls, config), text("thing", a["in/tok_bg"]),
        text("stuff", a["in/tok_thing_cam"]),
        thing_ids=a["in/thing_ids"].tolist(), stuff_ids=a["in/stuff_ids"].tolist(),
    )  # fmt: skip
    return a, meta, both, text


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_car_golden_thing_stuff(path):
    a, meta, both, text = passes(path)
    label, things, stuff = both.predict(a["in/image"])
    assert [things.steps, stuff.steps] == [len(s) for s in meta["steps"]]
    np.testing.assert_allclose(things.scores, a["out/thing_scores"], atol=1e-5)
    np.testing.assert_allclose(stuff.scores, a["out/stuff_scores"], atol=1e-5)
    allowed = 1e-3 * label.size  # see test_golden_recurrence.py
    assert (things.masks != (a["out/thing_masks"] > 0)).any(axis=0).sum() <= allowed
    assert (stuff.masks != (a["out/stuff_masks"] > 0)).any(axis=0).sum() <= allowed
    assert (label != a["out/label"]).sum() <= allowed
    # Wrong: stuff over things, and stuff against the things' own backgrounds.
    over = stuff.label_map(both.stuff_ids, base=things.label_map(both.thing_ids))
    assert (over != a["out/label"]).sum() > 20
    wrong = dataclasses.replace(both, stuff_text=text("stuff", a["in/tok_bg"]))
    other = wrong.stuff.predict(a["in/image"], wrong.stuff_text)
    assert (other.masks != (a["out/stuff_masks"] > 0)).sum() > 20

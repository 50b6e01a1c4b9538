"""SegCLIP golden: felzenszwalb's superpixels, and the ids of the patches of crops."""

import re

import numpy as np
import pytest

from openseg_jax.inputs.superpixels import Felzenszwalb, patch_ids
from tests import golden

CASE = pytest.mark.parametrize("path", golden.cases("segclip", "superpixel"), ids=lambda p: p.stem)


@CASE
def test_segclip_golden_superpixels(path):
    a, meta = golden.load(path)
    p = meta["params"]
    method = Felzenszwalb(p["scale"], p["sigma"], p["min_size"], short_side=0)
    got = method.segment(a["in/image_u8_rgb"])
    np.testing.assert_array_equal(got, a["out/felzenszwalb_map"])
    # The parameters matter.
    other = Felzenszwalb(p["scale"], p["sigma"] + 1, p["min_size"], short_side=0)
    assert (other.segment(a["in/image_u8_rgb"]) != a["out/felzenszwalb_map"]).any()


def test_segclip_golden_superpixels_have_the_published_parameters():
    assert Felzenszwalb() == Felzenszwalb(scale=224.0, sigma=0.9, min_size=224, short_side=224)


@CASE
def test_segclip_golden_patch_ids(path):
    a, _ = golden.load(path)
    segments = a["out/felzenszwalb_map"].astype(np.int32)
    names = [k for k in a if k.startswith("out/patch_ids_")]
    assert names
    repaired_differs = False
    for name in names:
        size = int(re.sub(r".*_", "", name))
        patch = size // a[name].shape[-1]
        for box, want in zip(a["in/coords_xyxy"], a[name], strict=True):
            got = patch_ids(segments, tuple(box), size, patch, parity="reference")
            np.testing.assert_array_equal(got, want)
            repaired_differs |= bool((patch_ids(segments, tuple(box), size, patch) != want).any())
    assert repaired_differs

"""SegCLIP's groups are what its scores are made of."""

import numpy as np

from openseg_jax.methods.segclip_groups import windows
from tests.methods.test_segclip import SIZE, draw, folder, segclip  # noqa: F401


def test_groups_cover_their_window_and_are_its_scores(segclip):  # noqa: F811
    text = segclip.classes(["zebra", "grass", "sky"], ["lemon"])
    image = draw(SIZE)
    found = windows(segclip, image, text)
    for window in found:
        side = window.picture.shape[:2]
        total = sum(group.region.astype(int) for group in window.groups)
        assert side == (32, 32) and (total == 1).all()
        areas = [group.region.sum() for group in window.groups]
        assert areas == sorted(areas, reverse=True) and min(areas) > 0
        assert len({group.centre for group in window.groups}) == len(window.groups)
        for group in window.groups:
            assert 0 <= group.score <= 1 and group.label in (*text.names, None)
            assert group.nearest in (*text.names, "")
            if group.label is not None:
                assert group.label == group.nearest
    # A class has pixels only where a group of some window was called so.
    masks = segclip.segment(segclip.params, image[None], text)
    named = {group.label for window in found for group in window.groups}
    for name, kept in zip(text.names, np.asarray(masks.valid[0]), strict=False):
        assert not kept or name in named

"""COCO-Stuff 164k: a label map of 80 things and 91 stuff classes."""

from __future__ import annotations

from openseg_jax.data.builders.base import LabelledBuilder

__all__ = ["CocoStuff"]


class CocoStuff(LabelledBuilder):
    """COCO-Stuff 164k: a label map of 80 things and 91 stuff classes."""

    DATA_SET = "coco_stuff"
    DESCRIPTION = (
        "The 5000 validation pictures of COCO 2017 with the 171 classes of COCO-Stuff, numbered "
        "without the gaps of the files."
    )
    HOMEPAGE = "https://github.com/nightrome/cocostuff"
    CITATION = """@inproceedings{caesar2018coco,
  title={{COCO-Stuff}: Thing and Stuff Classes in Context},
  author={Caesar, Holger and Uijlings, Jasper and Ferrari, Vittorio},
  booktitle={IEEE Conference on Computer Vision and Pattern Recognition},
  year={2018}
}"""

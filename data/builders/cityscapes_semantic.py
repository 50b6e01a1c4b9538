"""Cityscapes with the 19 classes of its benchmark; TFDS's own `cityscapes` has raw ids."""

from __future__ import annotations

from openseg_jax.data.builders.base import LabelledBuilder

__all__ = ["CityscapesSemantic"]


class CityscapesSemantic(LabelledBuilder):
    """Cityscapes with the 19 classes of its benchmark; TFDS's own `cityscapes` has raw ids."""

    DATA_SET = "cityscapes"
    IMAGE_FORMAT = "png"
    DESCRIPTION = (
        "The 500 validation pictures of Cityscapes with the 19 classes that its benchmark "
        "evaluates; all other ids are not labelled."
    )
    HOMEPAGE = "https://www.cityscapes-dataset.com"
    CITATION = """@inproceedings{cordts2016cityscapes,
  title={The {Cityscapes} Dataset for Semantic Urban Scene Understanding},
  author={Cordts, Marius and Omran, Mohamed and Ramos, Sebastian and Rehfeld, Timo
    and Enzweiler, Markus and Benenson, Rodrigo and Franke, Uwe and Roth, Stefan
    and Schiele, Bernt},
  booktitle={IEEE Conference on Computer Vision and Pattern Recognition},
  year={2016}
}"""

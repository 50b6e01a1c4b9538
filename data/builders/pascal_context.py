"""PASCAL-Context: background and 59 classes, or all 459 classes."""

from __future__ import annotations

from typing import ClassVar

from openseg_jax.data.builders.base import LabelConfig, LabelledBuilder

__all__ = ["PascalContext"]


class PascalContext(LabelledBuilder):
    """PASCAL-Context: background and 59 classes, or all 459 classes."""

    BUILDER_CONFIGS: ClassVar = [
        LabelConfig(
            name="60",
            data_set="context",
            description="Background and the 59 most frequent classes.",
        ),
        LabelConfig(
            name="459", data_set="context459", description="All 459 classes, 16-bit labels."
        ),
    ]
    DEFAULT_BUILDER_CONFIG_NAME = "60"
    DESCRIPTION = (
        "The validation pictures of PASCAL-Context: VOC 2010 with a class for each pixel, things "
        "and stuff."
    )
    HOMEPAGE = "https://cs.stanford.edu/~roozbeh/pascal-context/"
    CITATION = """@inproceedings{mottaghi2014role,
  title={The Role of Context for Object Detection and Semantic Segmentation in the Wild},
  author={Mottaghi, Roozbeh and Chen, Xianjie and Liu, Xiaobai and Cho, Nam-Gyu and Lee, Seong-Whan
    and Fidler, Sanja and Urtasun, Raquel and Yuille, Alan},
  booktitle={IEEE Conference on Computer Vision and Pattern Recognition},
  year={2014}
}"""

"""ADE20K with semantic labels; TFDS's own `scene_parse150` holds instances instead."""

from __future__ import annotations

from typing import ClassVar

from openseg_jax.data.builders.base import LabelConfig, LabelledBuilder

__all__ = ["Ade20kSemantic"]


class Ade20kSemantic(LabelledBuilder):
    """ADE20K with semantic labels; TFDS's own `scene_parse150` holds instances instead."""

    BUILDER_CONFIGS: ClassVar = [
        LabelConfig(name="150", data_set="ade", description="The 150 classes of SceneParse150."),
        LabelConfig(
            name="847",
            data_set="ade847",
            description="The 847 classes of the full data set, 16-bit labels.",
        ),
    ]
    DEFAULT_BUILDER_CONFIG_NAME = "150"
    DESCRIPTION = "The 2000 validation pictures of ADE20K with a class for each pixel."
    HOMEPAGE = "https://groups.csail.mit.edu/vision/datasets/ADE20K/"
    CITATION = """@article{zhou2019semantic,
  title={Semantic Understanding of Scenes through the {ADE20K} Dataset},
  author={Zhou, Bolei and Zhao, Hang and Puig, Xavier and Xiao, Tete and Fidler, Sanja
    and Barriuso, Adela and Torralba, Antonio},
  journal={International Journal of Computer Vision},
  volume={127},
  pages={302--321},
  year={2019}
}"""
